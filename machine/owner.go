package machine

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"vmfs/backends/hypervisor"
)

// DefaultMode is the mode of a VM for which none was asked: its owner's alone.
const DefaultMode = 0o700

// Owner is whose a VM is. Mode is the permission bits of the VM's directory, those
// of chmod(1); those of the files in it are for the server of the tree to derive.
// Machine keeps the owner and does not itself refuse anybody anything.
type Owner struct {
	UID  uint32
	GID  uint32
	Mode uint32 // of 0777; in Create, 0 means DefaultMode
}

func (o Owner) clean() Owner {
	o.Mode &= uint32(os.ModePerm)
	return o
}

// ownerJSON is an Owner in a record: the mode reads as people write it.
type ownerJSON struct {
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	Mode string `json:"mode"`
}

// MarshalJSON writes the mode in octal, as a string.
func (o Owner) MarshalJSON() ([]byte, error) {
	return json.Marshal(ownerJSON{o.UID, o.GID, fmt.Sprintf("%04o", o.Mode)})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (o *Owner) UnmarshalJSON(b []byte) error {
	var j ownerJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	mode, err := strconv.ParseUint(j.Mode, 8, 32)
	if err != nil || mode > uint64(os.ModePerm) {
		return fmt.Errorf("mode %q is not one of 0000 to 0777", j.Mode)
	}
	*o = Owner{UID: j.UID, GID: j.GID, Mode: uint32(mode)}
	return nil
}

// Owner returns whose the VM is.
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

// ChangeOwner is SetOwner for who has to know whose the VM is to say whose it is
// to be: nobody else changes it between. An error of change is returned as it is.
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
	v.emit(Record{Kind: KindOwner, Detail: []hypervisor.Detail{
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
	o = o.clean()
	if err := v.saveRecordLocked(func(r *record) { r.Owner = o }); err != nil {
		return o, v.wrap("chown", err)
	}
	return o, nil
}
