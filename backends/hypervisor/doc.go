// Package hypervisor is the contract between vmfs and the programs that run
// virtual machines: what a back end must offer, what its calls mean, and how
// one is found by its type.
//
// A back end implements two things. A [VMStarter] brings a VMM into being and
// gives back its process and a [Hypervisor], the handle by which that one VM
// is then controlled. A [ClientFactory] makes such a handle anew from the VMM's
// control socket alone, since the VMM outlives the server that started it.
// What only some back ends can do is a small optional interface beside these
// (see optional.go); [Capabilities] tells users about it in words, and
// hypervisortest holds the two to each other. What a configuration can say is
// [VMConfig.Check], which those who write it and those who start VMs ask alike.
//
// The package is a leaf: it imports the standard library only. Back ends,
// package machine and hypervisortest import it; it imports none of them.
package hypervisor
