package image

import (
	"errors"
	"fmt"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/uki"
)

// maxKernelImage bounds each part of a unified kernel image.
const maxKernelImage = 256 << 20

// KernelImage puts the unsigned unified kernel image of a release together.
// Releases with one root still have one each: its command line, which the
// signature covers, is how a node knows which of them it runs.
func KernelImage(s *store.Store, p Plan, o OS, release int64) (store.Content, error) {
	var stub, osrel, kernel, ird []byte
	var errs []error
	for _, r := range []struct {
		to   *[]byte
		from store.Content
	}{{&stub, o.Stub}, {&osrel, o.OSRelease}, {&kernel, o.Kernel}, {&ird, o.Initrd}} {
		b, err := s.ReadFile(r.from, maxKernelImage)
		*r.to = b
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return store.Content{}, fmt.Errorf("cannot make the kernel image: %w", err)
	}
	b, err := uki.Assemble(stub, uki.Sections(entryRelease(string(osrel), release), p.CommandLine(o.RootHash, release), o.KernelVersion, kernel, ird))
	if err != nil {
		return store.Content{}, err
	}
	return s.WriteBytes(b)
}

// entryRelease is the os-release of a boot entry. The loader takes the entry
// with the highest version, which must be the release's number, and not that of
// the distribution it is made from.
func entryRelease(osrel string, release int64) string {
	return fmt.Sprintf("%s\nIMAGE_ID=holdfast\nIMAGE_VERSION=%d\n", strings.TrimRight(osrel, "\n"), release)
}
