// Probe tells what a program sees in the sandbox.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	switch os.Args[1] {
	case "files":
		entries, err := os.ReadDir("/")
		for _, e := range entries {
			fmt.Print(e.Name(), " ")
		}
		fmt.Println(err)
	case "environment":
		fmt.Println(os.Environ())
	case "write":
		fmt.Println(os.WriteFile("/file", []byte("text"), 0o644))
	case "devices":
		entries, err := os.ReadDir("/dev")
		for _, e := range entries {
			fmt.Print(e.Name(), " ")
		}
		zero := []byte{1}
		f, err2 := os.Open("/dev/zero")
		_, err3 := f.Read(zero)
		fmt.Println(zero, errors.Join(err, err2, err3))
	case "processes":
		all, err := filepath.Glob("/proc/[0-9]*")
		self, err2 := os.Readlink("/proc/self/exe")
		fmt.Println(all, self, errors.Join(err, err2))
	case "network":
		b, err := os.ReadFile("/proc/net/dev")
		fmt.Println(strings.Count(string(b), "\n"), strings.Contains(string(b), "lo:"), err)
	case "report":
		_, err := os.Readlink("/proc/self/fd/3")
		fmt.Println(errors.Is(err, os.ErrNotExist))
	case "fail":
		fmt.Fprintln(os.Stderr, "why")
		os.Exit(3)
	case "sleep":
		time.Sleep(time.Minute)
	}
}
