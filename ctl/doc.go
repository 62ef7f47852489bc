// Package ctl is the language of the ctl files: the grammar of a control message,
// and who carries it out.
//
// A write to a ctl file is one or more lines, each a verb and its arguments in
// rc's quoting (package machine/rc). Lines are carried out in order; the first
// that fails ends the write. There are two tables of verbs: that of VMs is
// package machine's, that of the server is here. What reading a ctl file shows,
// the manual and the tests are made from them.
//
// The package imports machine and what that imports.
package ctl
