// A program with one module, for tests that read what it was linked from.
package main

import "golang.org/x/mod/semver"

func main() { println(semver.Max("v1.0.0", "v1.2.0")) }
