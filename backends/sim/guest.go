package sim

import (
	"fmt"
	"strings"
)

// ReadyLine is what the guest prints when it is ready for everything.
const ReadyLine = "sim guest ready"

// NMILine is what the guest prints when it gets an NMI, which it makes nothing of.
const NMILine = "sim guest: NMI received"

const prompt = "sim> "

const help = "commands: help, mem, disk N, echo TEXT, note [TEXT], dial PORT TEXT, poweroff, reboot, panic\r\n"

// All functions here are called with vm.mu held.

func (vm *VM) boot() {
	vm.after(0, func() {
		vm.print(fmt.Sprintf("sim %s: booting %s\r\n%d virtual CPUs, %d bytes of memory\r\n",
			Version, vm.name(), vm.config.VCPUs, vm.config.MemoryBytes))
	})
	vm.after(vm.set.bootTime, vm.ready)
}

func (vm *VM) ready() {
	vm.booted = true
	vm.print(ReadyLine + "\r\n" + prompt)
	if vm.asked {
		vm.asked = false
		vm.powerButton()
		return
	}
	vm.follow()
	vm.readConsole()
}

// powerButton has the guest power off, once it has booted.
func (vm *VM) powerButton() {
	if _, deaf := vm.fault(FaultNoPowerOff, ""); deaf || vm.asked {
		return
	}
	vm.asked = true
	if vm.booted {
		vm.after(vm.set.powerOffTime, vm.powerOff)
	}
}

func (vm *VM) powerOff() {
	vm.print("\r\npower off\r\n")
	vm.endGuest(ReasonGuestShutdown)
}

// print is the guest's output: into the serial log and to who is connected.
func (vm *VM) print(text string) {
	if err := appendFile(vm.config.SerialLogPath, text); err != nil {
		vm.complain("sim: serial log: " + err.Error())
	}
	if vm.console != nil {
		vm.console.put(text)
	}
}

// complain is the VMM's own output. There is nobody to tell if it cannot be
// written.
func (vm *VM) complain(text string) { _ = appendFile(vm.config.LogPath, text+"\n") }

// readConsole lets a guest that can read what was typed.
func (vm *VM) readConsole() {
	var out strings.Builder
	flush := func() {
		if out.Len() > 0 {
			vm.print(out.String())
			out.Reset()
		}
	}
	for len(vm.typed) > 0 && vm.guestRuns() && vm.booted {
		c := vm.typed[0]
		vm.typed = vm.typed[1:]
		switch {
		case c == '\r' || c == '\n':
			out.WriteString("\r\n")
			words := string(vm.line)
			vm.line = vm.line[:0]
			flush()
			vm.command(words)
		case c == 0x7f || c == '\b':
			if n := len(vm.line); n > 0 {
				vm.line = vm.line[:n-1]
				out.WriteString("\b \b")
			}
		case c >= ' ' && len(vm.line) < 1024:
			vm.line = append(vm.line, c)
			out.WriteByte(c)
		}
	}
	flush()
	if len(vm.typed) == 0 {
		vm.typed = nil
	}
	if vm.console != nil {
		vm.console.cond.Broadcast() // there is room for input
	}
}

func (vm *VM) command(words string) {
	verb, arg, _ := strings.Cut(strings.TrimSpace(words), " ")
	switch verb {
	case "":
	case "help":
		vm.print(help)
	case "mem":
		vm.print(fmt.Sprintf("%d\r\n", vm.actual))
	case "disk":
		vm.print(vm.diskSize(arg) + "\r\n")
	case "echo":
		vm.print(arg + "\r\n")
	case "note":
		if arg == "" {
			vm.print(vm.note + "\r\n")
		}
		if arg != "" {
			vm.note = arg
		}
	case "dial":
		vm.print(vm.dialHost(arg))
	case "poweroff":
		vm.powerOff()
		return
	case "reboot":
		vm.reset(ReasonGuestReset)
		return
	case "panic":
		vm.panicGuest()
		return
	default:
		vm.print(verb + ": no such command; try help\r\n")
	}
	vm.print(prompt)
}
