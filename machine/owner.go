package machine

import (
	"fmt"
	"strconv"

	"vmfs/backends/hypervisor"
	"vmfs/machine/events"
	"vmfs/machine/owner"
)

// Owner is who a VM belongs to.
type Owner = owner.Owner

// Owner returns the VM's owner, group and mode.
func (v *VM) Owner() Owner {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rec.Owner
}

// SetOwner gives the VM to another owner, durably. It is no command: it works
// while one is under way.
func (v *VM) SetOwner(o Owner) error {
	return v.ChangeOwner(func(Owner) (Owner, error) { return o, nil })
}

// ChangeOwner is SetOwner for callers that must know the present owner to name the next
// one: nobody else changes it between. An error of change is returned as it is.
func (v *VM) ChangeOwner(change func(Owner) (Owner, error)) error {
	if !v.host.enter() {
		return v.wrap("chown", ErrClosed)
	}
	defer v.host.leave()
	o, err := v.saveOwner(change)
	if err != nil {
		return err
	}
	v.update(func() {})
	v.emit(events.Event{Kind: events.KindOwner, Detail: []hypervisor.Detail{
		{Key: "uid", Value: strconv.FormatUint(uint64(o.UID), 10)},
		{Key: "gid", Value: strconv.FormatUint(uint64(o.GID), 10)},
		{Key: "mode", Value: fmt.Sprintf("%04o", o.Mode)},
	}})
	return nil
}

func (v *VM) saveOwner(change func(Owner) (Owner, error)) (Owner, error) {
	v.disk.Lock()
	defer v.disk.Unlock()
	o, err := change(v.Owner())
	if err != nil {
		return o, err
	}
	o = o.Clean()
	if err := v.saveRecordLocked(func(r *record) { r.Owner = o }); err != nil {
		return o, v.wrap("chown", err)
	}
	return o, nil
}
