package s3

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/minio/minio-go/v7"
)

const (
	// What of a file is kept in memory, and sent again if it is lost; with the
	// parts that the protocol has, the largest file is of 625 GiB.
	partSize  = 64 << 20
	mostParts = 10_000

	// What is half written is dropped within that time, or the next try drops it.
	abortWithin = time.Minute
)

// File is one that is written. It comes to be with Sync, whole; Close without it
// drops what was written.
type File struct {
	b        *Bucket
	key, id  string
	part     []byte
	parts    []minio.CompletePart
	complete bool
}

// Create begins a file, which takes the place of any with that name.
func (b *Bucket) Create(name string) (*File, error) {
	f := &File{b: b, key: b.prefix + name, part: make([]byte, 0, b.partSize)}
	var err error
	if f.id, err = b.c.NewMultipartUpload(b.ctx, b.bucket, f.key, minio.PutObjectOptions{ContentType: "application/octet-stream"}); err != nil {
		return nil, b.explain("write to", err)
	}
	return f, nil
}

func (f *File) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		m := min(len(p)-n, cap(f.part)-len(f.part))
		f.part = append(f.part, p[n:n+m]...)
		n += m
		if len(f.part) == cap(f.part) {
			if err := f.send(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// send sends the part that is in memory.
func (f *File) send() error {
	if len(f.parts) == mostParts {
		return fmt.Errorf("cannot write to %s: the file has more than %d GiB, and S3 takes no larger one in %d parts", f.b.url, int64(mostParts)*int64(f.b.partSize)>>30, mostParts)
	}
	// The target compares both: the one is signed, the other is asked for by
	// buckets with a lock.
	sum, md := sha256.Sum256(f.part), md5.Sum(f.part)
	p, err := f.b.c.PutObjectPart(f.b.ctx, f.b.bucket, f.key, f.id, len(f.parts)+1, bytes.NewReader(f.part), int64(len(f.part)),
		minio.PutObjectPartOptions{Sha256Hex: hex.EncodeToString(sum[:]), Md5Base64: base64.StdEncoding.EncodeToString(md[:])})
	if err != nil {
		return f.b.explain("write to", err)
	}
	f.parts = append(f.parts, minio.CompletePart{PartNumber: p.PartNumber, ETag: p.ETag})
	f.part = f.part[:0]
	return nil
}

// Sync has the target make the file of its parts. Nothing can be written after.
func (f *File) Sync() error {
	if f.complete {
		return nil
	}
	if len(f.part) > 0 || len(f.parts) == 0 {
		if err := f.send(); err != nil {
			return err
		}
	}
	if _, err := f.b.c.CompleteMultipartUpload(f.b.ctx, f.b.bucket, f.key, f.id, f.parts, minio.PutObjectOptions{}); err != nil {
		return f.b.explain("write to", err)
	}
	f.complete = true
	return nil
}

// Close ends the writing.
func (f *File) Close() error {
	f.part = nil
	if f.complete {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.b.ctx), abortWithin)
	defer cancel()
	if err := f.b.abort(ctx, f.key, f.id); err != nil {
		return errors.Join(err, errors.New("the next try drops it"))
	}
	return nil
}
