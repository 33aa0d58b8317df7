package cli

import (
	"os"
	"sync"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/sandbox"
	"holdfast.dev/holdfast/overlays"
	"holdfast.dev/holdfast/qemu-tests/longtest"
)

// TestSteps makes Keycloak's image, whose steps run Java, twice at once, so that
// each is held up by the other, one by the lock of a later day, and wants the
// same bytes. What comes of the steps is TestPlatform's.
func TestSteps(t *testing.T) {
	longtest.Begin(t)
	if os.Getenv("HOLDFAST_PLATFORM_TEST") == "" {
		t.Skip("set HOLDFAST_PLATFORM_TEST=1; it needs mirrors and a minute")
	}
	if err := sandbox.Check(); err != nil {
		t.Skip(err)
	}
	if c, err := (&app{Host: System()}).mavenClient(overlays.Site{}); err != nil || len(c.Repositories) == 0 {
		t.Skipf("no Maven repository: %v", err)
	}
	one := siteOf(t, "keycloak")
	programs, err := one.compile(t.Context())
	must(t, err)
	two := one
	two.lock.Epoch += 24 * 60 * 60
	// As if by another holdfast: nothing is remembered of what it made.
	two.identity = store.FromBytes([]byte(t.TempDir()))
	var made [2]store.Content
	var wait sync.WaitGroup
	for i, b := range []builder{one, two} {
		wait.Go(func() {
			images, err := b.images(t.Context(), programs)
			if err != nil || len(images) != 1 {
				t.Errorf("%d images: %v", len(images), err)
				return
			}
			made[i] = images[0].Manifest
		})
	}
	wait.Wait()
	if made[0] != made[1] || made[0] == (store.Content{}) {
		t.Errorf("the images are %v and %v", made[0].Digest, made[1].Digest)
	}
}
