// Initmain is the guest's agent alone, for images that need not hold all of
// vmfs: the tests' ones.
package main

import "vmfs/guest/agent"

func main() { agent.Main() }
