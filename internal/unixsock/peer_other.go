//go:build unix && !linux && !darwin

package unixsock

import "errors"

func peerOf(int) (Peer, error) { return Peer{}, errors.ErrUnsupported }
