// Package machine is the virtual machines of this host: which there are, what
// each is configured to be and is doing, its commands, its events, its console,
// and what of that is on disk, so that a server that was killed finds
// every VM again, running or not, when it is started anew.
//
// A [Host] is one state directory, which it locks. A [VM] is one directory in
// it. A VM that has a VMM has a session (session.go), which is the only place
// that follows the VMM: it takes its events, notices its end, finds it again
// after a lost connection or a restart of the server, and keeps the VM's
// cached state. Reading that state never talks to a hypervisor.
//
// A state directory:
//
//	lock               held by the server that uses the directory; its pid
//	vms/NAME/          one VM, mode 0700; every file in it has mode 0600
//	  record.json      what it is and how it runs (record.go)
//	  config           its configuration, as package config writes it; not there before the first change
//	  console.log      all that its serial console said; .1 is an older part (package console)
//	  log              what its VMM printed
//	  events           its last events, one a line (package events)
//	  snapshots/NAME/  one snapshot (snapshot.go)
//	  run/             the sockets of its VMM
//	vms/.new-*         a VM being made; vms/.del-*: a VM being removed. Cleared at Open.
//
// Locks, in the order in which they may be taken together: Host.cids, VM.disk,
// VM.order, VM.mu, Host.mu; VM.order is also taken before the lock of a Feed and
// then those of its queues, and those of package console are taken alone. VM.mu and Host.mu are held for a few assignments only. Nothing
// waits for a hypervisor under any lock, and only Host.cids, VM.disk, VM.order and
// console.Log's are held over disk access: to read a VM's state takes none of
// them.
//
// Its parts stand in packages of their own: config and rc (the text of the config
// file), console, events, owner and durable. Back ends come by registration.
package machine
