// Package guesttest gives tests of vmfs real guests: it builds the images that
// they boot, once per machine and input, and runs them under QEMU's emulation.
//
// Images and downloads are kept in the directory that VMFS_GUEST_CACHE names, or
// in build/guest-cache of the checkout. Builders in several processes take turns.
// An image that was not used for a week is removed.
//
// The program in these images is guest/internal/initmain, the agent without the
// rest of vmfs, built afresh from the checkout, so that a test always runs the
// agent that it was compiled beside.
//
// Where a tool is missing a test is skipped with the command that installs it;
// with CI=true in the environment it fails.
//
// The package imports guest, imagecache and internal/flock, and is for tests alone.
package guesttest
