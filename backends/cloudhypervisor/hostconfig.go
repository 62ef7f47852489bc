package cloudhypervisor

import (
	"bytes"
	"encoding/json"
	"fmt"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/hypervisor"
)

// hosts are the fields of Cloud Hypervisor's configuration that are the host's and not the
// guest's, by the part that they are in. Where there can be several of a part they are known
// by their ids.
var hosts = []struct {
	part   string
	fields []string
}{
	{"payload", []string{"firmware", "kernel", "cmdline", "initramfs"}},
	{"disks", []string{"path", "rate_limiter_config"}},
	{"serial", []string{"mode", "file", "socket"}},
	{"console", []string{"mode", "file", "socket"}},
	{"vsock", []string{"cid", "socket"}},
	{"platform", []string{"system_uuid"}},
}

// layHost returns the configuration in a snapshot with what is the host's as it is here. All
// else in it stays as it is, whether or not it is known to vmfs.
func layHost(saved []byte, here *api.VMConfig) ([]byte, error) {
	b, err := json.Marshal(here)
	if err != nil {
		return nil, err
	}
	var to, from map[string]any
	for _, d := range []struct {
		text []byte
		into *map[string]any
	}{{saved, &to}, {b, &from}} {
		dec := json.NewDecoder(bytes.NewReader(d.text))
		dec.UseNumber() // a size has more digits than a float64
		if err := dec.Decode(d.into); err != nil {
			return nil, fmt.Errorf("the snapshot's configuration: %w: %w", err, hypervisor.ErrInvalid)
		}
	}
	if to == nil {
		return nil, fmt.Errorf("the snapshot's configuration is empty: %w", hypervisor.ErrInvalid)
	}
	for _, h := range hosts {
		if err := layPart(to, from, h.part, h.fields); err != nil {
			return nil, err
		}
	}
	return json.Marshal(to)
}

// layPart lays the fields of one part over those that it has.
func layPart(to, from map[string]any, part string, fields []string) error {
	other := func() error {
		return fmt.Errorf("the snapshot's configuration has another %q than the VM: %w", part, hypervisor.ErrInvalid)
	}
	switch source := from[part].(type) {
	case []any:
		list, ok := to[part].([]any)
		if !ok || len(list) != len(source) {
			return other()
		}
		byID := make(map[any]map[string]any)
		for _, x := range list {
			if m, ok := x.(map[string]any); ok {
				byID[m["id"]] = m
			}
		}
		for _, x := range source {
			m, _ := x.(map[string]any)
			into := byID[m["id"]]
			if into == nil {
				return other()
			}
			layFields(into, m, fields)
		}
		return nil
	case map[string]any:
		into, ok := to[part].(map[string]any)
		if !ok && part == "platform" { // a VM without an identity had none
			into = map[string]any{}
			to[part] = into
		} else if !ok {
			return other()
		}
		layFields(into, source, fields)
		return nil
	}
	if to[part] != nil && part != "platform" {
		return other()
	}
	return nil
}

func layFields(to, from map[string]any, fields []string) {
	for _, f := range fields {
		if v, ok := from[f]; ok {
			to[f] = v
		} else {
			delete(to, f)
		}
	}
}
