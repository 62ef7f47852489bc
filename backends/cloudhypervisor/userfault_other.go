//go:build !linux

package cloudhypervisor

func canFault() bool { return false }
