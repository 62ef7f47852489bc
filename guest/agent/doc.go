// Package agent is the init of the vmfs guest: process 1 of a Linux kernel that
// was booted with an initramfs by package guest.
//
// It mounts what user space expects, loads the image's modules, brings up the
// network that the kernel command line asks for, serves a shell on the console,
// answers the power button, tells of changes of memory, and powers off cleanly.
// It never exits: that would be a kernel panic.
//
// # Lines on the console
//
//	vmfs guest ready: linux RELEASE, N cpus, M MiB      once, when all is up
//	vmfs guest: memory 384 MiB (was 256 MiB)            after the change is complete
//	vmfs guest: script exited N                         128+signal if it was killed
//	vmfs guest: powering off                            or: rebooting
//	vmfs guest: ...                                     anything that went wrong
//
// Memory is what the firmware reported at boot, in whole MiB, plus what was
// plugged since and minus what the balloon took since.
//
// # Kernel command line
//
//	vmfs.script=PATH       run this program of the image instead of the console's
//	                       shell, report its status, power off. A file
//	                       /etc/vmfs/script in the image means the same.
//	vmfs.net=user          eth0 is 10.0.2.15/24, gateway 10.0.2.2, name server
//	                       10.0.2.3: what QEMU's and slirp's user network want
//	ip=CLIENT::GW:MASK:HOST:DEV::DNS    a static address, in the kernel's own form
//	                       (Debian's kernels do not act on it themselves)
//	vmfs.hostname=NAME     instead of "guest"
//	vmfs.loglevel=N        kernel messages less urgent than N stay off the console
//	                       once the agent runs; 4 unless loglevel= or debug is given
//	memhp_default_state=S  how plugged memory is brought online; the agent sets
//	                       online_movable, which can be unplugged again, if absent
//
// # Vsock
//
// Package services describes what is served on the vsock ports. /bin/vsock in the
// guest connects its standard input and output to a port of the host, or of any
// other context id, so that the host can take the guest's log with a listener:
//
//	dmesg -w | vsock dial 9000
//
// # Signals
//
// Those that busybox's poweroff, halt and reboot send to process 1: SIGUSR2 and
// SIGUSR1 power off (a halted virtual machine would only hang), SIGTERM and
// SIGINT (ctrl-alt-del) reboot. All others are ignored.
//
// Only Linux runs it; elsewhere Main says so. The package imports golang.org/x/sys,
// mdlayher/vsock and, of vmfs, only what is below guest, but not guest itself: the
// builder has no place in an image.
package agent
