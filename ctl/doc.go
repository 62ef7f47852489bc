// Package ctl is the language of the ctl files: the grammar of a control message,
// and the table of verbs with what each one does.
//
// A write to a ctl file is one or more lines, each a verb and its arguments in
// rc's quoting (package machine/rc). Lines are carried out in order; the first
// that fails ends the write. There are two tables, one for the ctl file of a VM
// and one for the server's; what reading a ctl file shows, the manual and the
// tests are made from them.
//
// The package imports machine and what that imports.
package ctl
