package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vmfs/client"
	"vmfs/machine/config"
)

// completionTimeout is how long somebody at a shell waits for names.
const completionTimeout = 2 * time.Second

// completePath completes a path on the server.
func completePath(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	names := serverNames(cmd, toComplete)
	directive := cobra.ShellCompDirectiveNoFileComp
	if len(names) == 1 && strings.HasSuffix(names[0], "/") {
		directive |= cobra.ShellCompDirectiveNoSpace
	}
	return names, directive
}

// completeOnePath completes the first argument.
func completeOnePath(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completePath(cmd, args, toComplete)
}

// completeWrite completes the path, and then the words that the file takes: of a
// ctl file the verbs that it says are valid now, the first word of each line read
// from it, and some verbs' arguments; of a config file the keys.
func completeWrite(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return completePath(cmd, args, toComplete)
	}
	vm, file := vmOf(args[0]), client.Split(args[0])
	if len(file) > 2 || vm == "" && !slices.Equal(file, []string{"ctl"}) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	switch name, words := file[len(file)-1], args[1:]; {
	case name == "config", name == "ctl" && len(words) > 0 && words[0] == "set":
		return completeKey(toComplete)
	case name == "ctl" && len(words) == 0:
		return serverVerbs(cmd, args[0], toComplete), cobra.ShellCompDirectiveNoFileComp
	case name == "ctl" && len(words) == 1 && words[0] == "wait":
		return vmStates, cobra.ShellCompDirectiveNoFileComp
	case name == "ctl" && len(words) == 1 && words[0] == "restore":
		dir := vm + "/snapshots/"
		var names []string
		for _, n := range serverNames(cmd, dir+toComplete) {
			names = append(names, strings.TrimSuffix(strings.TrimPrefix(n, dir), "/"))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// completeKey completes a key of the configuration.
func completeKey(prefix string) ([]string, cobra.ShellCompDirective) {
	var keys []string
	for _, k := range config.Keys() {
		if key := k.Name + "="; strings.HasPrefix(key, prefix) {
			keys = append(keys, key+"\t"+k.Help)
		}
	}
	return keys, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// serverVerbs returns the verbs that a ctl file says are valid now.
func serverVerbs(cmd *cobra.Command, ctl, prefix string) []string {
	var verbs []string
	withServer(cmd, func(ctx context.Context, c *client.Client) {
		text, _ := c.ReadFile(ctx, ctl)
		for line := range strings.Lines(string(text)) {
			if verb, _, _ := strings.Cut(strings.TrimSpace(line), " "); verb != "" && strings.HasPrefix(verb, prefix) {
				verbs = append(verbs, verb)
			}
		}
	})
	return slices.Compact(verbs)
}

// completeRmdir completes what can be removed: VMs and snapshots.
func completeRmdir(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, n := range serverNames(cmd, toComplete) {
		dir, isDir := strings.CutSuffix(n, "/")
		parts := client.Split(dir)
		if isDir && vmOf(dir) != "" && (len(parts) == 1 || parts[1] == "snapshots") {
			names = append(names, n)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// completeWait completes a VM, and then states.
func completeWait(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return vmStates, cobra.ShellCompDirectiveNoFileComp
	}
	return vmNames(cmd, toComplete), cobra.ShellCompDirectiveNoFileComp
}

// completeExec completes a VM; what programs its guest has is not known.
func completeExec(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return vmNames(cmd, toComplete), cobra.ShellCompDirectiveNoFileComp
}

// vmNames returns the server's VMs that start with prefix.
func vmNames(cmd *cobra.Command, prefix string) []string {
	var vms []string
	for _, n := range serverNames(cmd, prefix) {
		if vm, ok := strings.CutSuffix(n, "/"); ok && vmOf(vm) != "" {
			vms = append(vms, vm)
		}
	}
	return vms
}

// serverNames returns the paths on the server that start with prefix;
// directories end in a slash. Without a server there are none.
func serverNames(cmd *cobra.Command, prefix string) []string {
	dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
	var names []string
	withServer(cmd, func(ctx context.Context, c *client.Client) {
		ents, _ := c.ReadDir(ctx, dir)
		for _, e := range ents {
			name := dir + e.Name
			if e.IsDir() {
				name += "/"
			}
			if strings.HasPrefix(name, prefix) {
				names = append(names, name)
			}
		}
	})
	return names
}

// withServer calls fn with a connection, if one can be had, for as long as somebody
// at a shell waits.
func withServer(cmd *cobra.Command, fn func(context.Context, *client.Client)) {
	ctx, cancel := context.WithTimeout(context.Background(), completionTimeout)
	defer cancel()
	c, err := attachTo(ctx, serverAddr(cmd))
	if err != nil {
		return
	}
	defer c.Close()
	fn(ctx, c)
}
