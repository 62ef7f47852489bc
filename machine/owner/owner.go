// Package owner is who a VM belongs to.
//
// The package imports the standard library alone.
package owner

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
)

// DefaultMode is the mode of a VM for which none was asked: its owner's alone.
const DefaultMode = 0o700

// Owner is the user and group that a VM belongs to, and its mode: the permission bits
// of the VM's directory, those of chmod(1). What they allow, of the directory and of
// the files in it, is for the server of the tree to say: nothing here refuses anything.
type Owner struct {
	UID  uint32
	GID  uint32
	Mode uint32 // of 0777; where a VM is made, 0 means DefaultMode
}

// Clean returns o with the permission bits alone.
func (o Owner) Clean() Owner {
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
