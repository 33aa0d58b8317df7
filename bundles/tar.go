package bundles

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

const (
	block = 512
	// maxUSTAR is the largest size that a ustar header holds; a larger one
	// stands in a PAX record before it.
	maxUSTAR = 1<<33 - 1
)

// tarHeader is the one header that a file of that name and size has in a
// bundle: epoch, root, mode 0644.
func tarHeader(name string, size int64) ([]byte, error) {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if size > maxUSTAR {
		h.Format = tar.FormatPAX
	}
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		return nil, fmt.Errorf("cannot write tar header of %s: %w", name, err)
	}
	return b.Bytes(), nil
}

// padding is how many zero bytes follow a file of that size.
func padding(size int64) int { return int(-size & (block - 1)) }

func marshalJSON(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("internal error: %w", err)
	}
	return b, nil
}
