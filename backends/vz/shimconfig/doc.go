// Package shimconfig is what the server and a vz-shim tell each other of a VM: the
// configuration that a shim is started with, and what the shim says of its host and of
// what the VM can do.
//
// All of it is JSON. A configuration reaches the shim by a descriptor, never by its
// arguments or its environment, which any user of the host may read.
//
// # Versions
//
// The server is replaced while shims run, and vz.binary can name a shim of another
// release. A configuration carries the version of its form. [Read] takes those from
// [MinVersion] to [Version], and refuses another with a [VersionError], which names both
// sides' versions. Within a version nothing is added: a field that is not of it is
// refused, so that no setting is lost in silence. A release that adds one adds a version, and
// writes the oldest that can say what is to be said.
//
// The package imports the standard library alone.
package shimconfig
