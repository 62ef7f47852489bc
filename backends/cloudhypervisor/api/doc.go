// Package api is Cloud Hypervisor's API as vmfs uses it: HTTP over a Unix socket, JSON in
// both directions, and the file to which the VMM writes its events.
//
// A [Client] keeps connections open between calls. Every call takes a context and returns soon
// after it ends, whether or not the VMM answers; the VMM may yet carry the call out if it had
// begun to read it. Answers are bounded. Files go along with a call as SCM_RIGHTS: Cloud
// Hypervisor takes the descriptors that come with a request's bytes.
//
// The types have the fields that vmfs uses and no others: Cloud Hypervisor takes a field that
// it does not know in silence, so what is not in them cannot be misspelt. A test lists what of
// the published description is not used, and why.
//
// A refusal is an [*Error] with the VMM's own words. What it means for the VM is never told by
// its status alone, because 500 means nearly everything: who needs to know asks [Client.Info].
//
// The package imports the standard library, backends/hypervisor for its errors, and
// internal/unixhttp and internal/unixsock.
package api
