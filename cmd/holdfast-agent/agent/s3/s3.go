// Package s3 keeps files in a bucket on the site's network, by the protocol of
// Amazon S3 (REST, signature version 4, the bucket in the path), over TLS and
// with the site's own authorities alone.
package s3

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	dialWithin = 30 * time.Second
	// A target that says nothing for that long is gone: the longest pause is a
	// large file's way to its disks.
	silence = 10 * time.Minute
	// Of each request, with a second between them at most.
	tries = 3
	// Nobody has so many backups; a target that lists more has no end.
	mostNames = 100_000

	defaultPort   = "443"
	defaultRegion = "us-east-1"
)

// Target is a place in a bucket.
type Target struct {
	URL       string // s3://ADDRESS[:PORT]/BUCKET[/PREFIX]
	Region    string // empty for us-east-1
	Authority string // certificates (PEM); one of them must have signed the one that it shows
	PartSize  int    // bytes of a file that are sent at once, 5 MiB at least; 0 means 64 MiB
}

// Bucket is the place, while its ctx lasts.
type Bucket struct {
	ctx            context.Context
	c              *minio.Core
	transport      *http.Transport
	url            string
	bucket, prefix string // the prefix ends with a slash, if there is one
	partSize       int
}

// Open makes a client for a target. Nothing is asked of it yet.
func Open(ctx context.Context, t Target, k Credentials) (*Bucket, error) {
	b, err := open(ctx, t, k)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", t.URL, err)
	}
	return b, nil
}

func open(ctx context.Context, t Target, k Credentials) (*Bucket, error) {
	u, err := url.Parse(t.URL)
	if err != nil || u.Scheme != "s3" || u.User != nil || u.Hostname() == "" || path.Clean(u.Path) != u.Path || len(u.Path) < 2 {
		return nil, errors.New("want s3://ADDRESS/BUCKET")
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM([]byte(t.Authority)) {
		return nil, errors.New("the release has no certificate of an authority for it")
	}
	b := &Bucket{ctx: ctx, url: t.URL, partSize: cmp.Or(t.PartSize, partSize)}
	var deeper bool
	if b.bucket, b.prefix, deeper = strings.Cut(u.Path[1:], "/"); deeper {
		b.prefix += "/"
	}
	dialer := net.Dialer{Timeout: dialWithin}
	b.transport = &http.Transport{ // no Proxy: the target is on the site's network
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return timed{c}, nil
		},
		TLSClientConfig:       &tls.Config{RootCAs: authorities, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   dialWithin,
		ResponseHeaderTimeout: silence,
		IdleConnTimeout:       dialWithin,
		DisableCompression:    true,
	}
	b.c, err = minio.NewCore(net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), defaultPort)), &minio.Options{
		Creds:  credentials.NewStaticV4(k.AccessKey, k.secret, ""),
		Secure: true, Transport: b.transport, Region: cmp.Or(t.Region, defaultRegion), BucketLookup: minio.BucketLookupPath, MaxRetries: tries,
	})
	return b, err
}

func (b *Bucket) String() string { return b.url }

// Close ends the connections.
func (b *Bucket) Close() { b.transport.CloseIdleConnections() }

// List gives the names of what is in the place.
func (b *Bucket) List() ([]string, error) {
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	var out []string
	for o := range b.c.ListObjectsIter(ctx, b.bucket, minio.ListObjectsOptions{Prefix: b.prefix}) {
		if o.Err != nil {
			return nil, b.explain("list", o.Err)
		}
		if name := strings.TrimPrefix(o.Key, b.prefix); name != "" && !strings.Contains(name, "/") {
			out = append(out, name)
		}
		if len(out) > mostNames {
			return nil, fmt.Errorf("cannot list %s: there are more than %d names", b.url, mostNames)
		}
	}
	return out, nil
}

// Open opens a file to be read.
func (b *Bucket) Open(name string) (io.ReadCloser, error) {
	r, _, _, err := b.c.GetObject(b.ctx, b.bucket, b.prefix+name, minio.GetObjectOptions{})
	if err != nil {
		return nil, b.explain("read from", err)
	}
	return r, nil
}

// Remove removes a file; one that is not there is no fault. Where the bucket
// keeps versions, the file is hidden and not gone.
func (b *Bucket) Remove(name string) error {
	if err := b.c.RemoveObject(b.ctx, b.bucket, b.prefix+name, minio.RemoveObjectOptions{}); err != nil {
		return b.explain("remove from", err)
	}
	return nil
}

// AbortUploads drops what was written of files that never came to be, of those
// whose names begin with start and are mine.
func (b *Bucket) AbortUploads(start string, mine func(name string) bool) error {
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	var found []minio.ObjectMultipartInfo
	for u := range b.c.ListIncompleteUploads(ctx, b.bucket, b.prefix+start, true) {
		if u.Err != nil {
			return b.explain("list what is half written on", u.Err)
		}
		if name, ok := strings.CutPrefix(u.Key, b.prefix); ok && mine(name) {
			found = append(found, u)
		}
		if len(found) > mostNames {
			break
		}
	}
	for _, u := range found {
		if err := b.abort(b.ctx, u.Key, u.UploadID); err != nil {
			return err
		}
	}
	return nil
}

// abort drops an upload; that it is not there any more is no fault.
func (b *Bucket) abort(ctx context.Context, key, id string) error {
	err := b.c.AbortMultipartUpload(ctx, b.bucket, key, id)
	if err != nil && minio.ToErrorResponse(err).Code != minio.NoSuchUpload {
		return b.explain("drop what is half written on", err)
	}
	return nil
}

// timed ends a connection whose other side says nothing any more.
type timed struct {
	net.Conn
}

func (t timed) Read(b []byte) (int, error) {
	if err := t.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return t.Conn.Read(b)
}

// Write gives the answer more time too: it is waited for from the start.
func (t timed) Write(b []byte) (int, error) {
	if err := t.SetDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return t.Conn.Write(b)
}
