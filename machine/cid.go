package machine

import (
	"errors"
	"fmt"

	"vmfs/backends/hypervisor"
	"vmfs/machine/config"
)

// firstCID is where the CIDs begin that are picked: out of the way of those that
// people choose, and that other programs count up from 3.
const firstCID = 1000

// pickTries is how many CIDs that others on this host have are passed over in one
// start. Each is an attempt to start a VMM, refused before there is one.
const pickTries = 100

// pickedCID is the CID that was last picked for the VM's guest, 0 for none.
func (v *VM) pickedCID() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rec.VsockCID
}

// VsockCID is the guest's context ID: the configured one, or the one that was
// picked for it at its last start. 0 is none.
func (v *VM) VsockCID() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.cidIn(v.cfg)
}

// GuestCID is VsockCID where that is the guest's, and not what its back end only takes for a
// wish to have a vsock.
func (v *VM) GuestCID() int64 {
	if s, ok := hypervisor.StarterFor(v.Status().Backend); ok {
		if _, own := s.(hypervisor.OwnCID); own {
			return 0
		}
	}
	return v.VsockCID()
}

// cidIn is VsockCID by a configuration. The caller holds v.mu.
func (v *VM) cidIn(cfg config.Config) int64 {
	if cfg.AutoCID() {
		return v.rec.VsockCID
	}
	return cfg.VMConfig().VsockCID
}

// pickCID gives the VM a CID that no other VM of the host has, by its
// configuration or because it was picked for it, and that is not in not: had, which
// is what the guest had, or what the VM had last, if one of them is free.
func (v *VM) pickCID(had int64, not map[int64]bool) error {
	h := v.host
	h.cids.Lock()
	defer h.cids.Unlock()
	taken := make(map[int64]bool)
	for _, other := range h.VMs() {
		if other != v {
			taken[other.VsockCID()] = true
		}
	}
	free := func(cid int64) bool { return cid != 0 && !taken[cid] && !not[cid] }
	last := v.pickedCID()
	cid := had
	if !free(cid) {
		cid = last
	}
	if !free(cid) {
		for cid = firstCID; !free(cid); cid++ {
		}
	}
	if cid == last {
		return nil
	}
	if err := v.saveRecord(func(r *record) { r.VsockCID = cid }); err != nil {
		return fmt.Errorf("cannot pick a vsock CID: %w", err)
	}
	return nil
}

// withCID starts or restores a VM by start, and again with another CID where somebody else on
// this host has the one that was picked.
func (v *VM) withCID(cfg config.Config, start func() (int, hypervisor.Hypervisor, error)) (pid int, hv hypervisor.Hypervisor, err error) {
	not := make(map[int64]bool)
	for {
		pid, hv, err = start()
		if !cfg.AutoCID() || !errors.Is(err, hypervisor.ErrCIDInUse) || len(not) >= pickTries {
			return pid, hv, err
		}
		not[v.pickedCID()] = true
		if perr := v.pickCID(0, not); perr != nil {
			return 0, nil, perr
		}
	}
}
