package serve

import (
	"net/http"
	"testing"
)

func FuzzByteRange(f *testing.F) {
	f.Add("bytes=1-2", "", int64(5))
	f.Add("bytes=-9223372036854775807", "", int64(5))
	f.Add("bytes=0-9223372036854775807", "\"x\"", int64(0))
	f.Fuzz(func(t *testing.T, spec, cond string, size int64) {
		if size < 0 {
			return
		}
		q := &http.Request{Header: http.Header{"Range": {spec}, "If-Range": {cond}}}
		start, end, status := byteRange(q, "x", size)
		if start < 0 || end < start || end > size {
			t.Errorf("%q of %d: %d to %d", spec, size, start, end)
		}
		if status == http.StatusOK && (start != 0 || end != size) {
			t.Errorf("%q of %d: %d to %d as the whole", spec, size, start, end)
		}
	})
}
