package vz

import (
	"vmfs/backends/extras"
	"vmfs/backends/vz/shimconfig"
)

// The settings of this back end, keys of VMConfig.Extras.
const (
	settingsPrefix = "vz."
	keyBinary      = "vz.binary"     // the program whose vz-shim it is
	keyCaching     = "vz.disk-cache" // of every disk
	keySync        = "vz.disk-sync"  // of every disk
	keyNetSocket   = "vz.net-socket" // of the first network, instead of NAT
)

// What disks have that nothing is said of. With the framework's own choice of caching
// Linux guests have had their file systems damaged.
const (
	defaultCaching = shimconfig.CachingCached
	defaultSync    = shimconfig.SyncFsync
)

// settingKeys is every setting, with the values it may have.
var settingKeys = extras.Table{
	keyBinary:    nil,
	keyCaching:   {string(shimconfig.CachingAutomatic), string(shimconfig.CachingCached), string(shimconfig.CachingUncached)},
	keySync:      {string(shimconfig.SyncFull), string(shimconfig.SyncFsync), string(shimconfig.SyncNone)},
	keyNetSocket: nil,
}
