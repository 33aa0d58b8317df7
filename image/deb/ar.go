package deb

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const arMagic = "!<arch>\n"

// arReader walks the members of an ar archive in the common form, as dpkg
// writes it: no long names.
type arReader struct {
	r    *bufio.Reader
	left int64 // of the current member, padding excluded
	pad  int64
}

func newArReader(r io.Reader) (*arReader, error) {
	br := bufio.NewReaderSize(r, 1<<16)
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(br, magic); err != nil || string(magic) != arMagic {
		return nil, errors.New("not an ar archive")
	}
	return &arReader{r: br}, nil
}

// next skips to the next member; the reader then reads its content. It returns
// io.EOF after the last one.
func (a *arReader) next() (name string, size int64, err error) {
	if _, err := io.CopyN(io.Discard, a.r, a.left+a.pad); err != nil {
		// The pad byte after the last member may be missing.
		if errors.Is(err, io.EOF) && a.left == 0 {
			return "", 0, io.EOF
		}
		return "", 0, fmt.Errorf("cut short: %w", noEOF(err))
	}
	a.left, a.pad = 0, 0
	var h [60]byte
	if _, err := io.ReadFull(a.r, h[:]); err == io.EOF {
		return "", 0, io.EOF
	} else if err != nil {
		return "", 0, fmt.Errorf("cut short in a member's header: %w", err)
	}
	if h[58] != '`' || h[59] != '\n' {
		return "", 0, errors.New("not a member's header")
	}
	size, err = strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
	if err != nil || size < 0 {
		return "", 0, fmt.Errorf("bad size %.10q", h[48:58])
	}
	a.left, a.pad = size, size%2
	name = strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/")
	return name, size, nil
}

func (a *arReader) Read(p []byte) (int, error) {
	if a.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > a.left {
		p = p[:a.left]
	}
	n, err := a.r.Read(p)
	a.left -= int64(n)
	if a.left > 0 {
		err = noEOF(err)
	}
	return n, err
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
