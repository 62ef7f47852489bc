package cloudhypervisor

// Faults says whether the VMMs of s may handle page faults, whatever this machine allows.
func (s *Starter) Faults(may bool) { s.canFault = func() bool { return may } }
