package s3

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/minio/minio-go/v7"
)

// ErrRefused is wrapped by errors about credentials that the target does not
// know.
var ErrRefused = errors.New("it does not know these credentials")

// explain says what a target's answer means, and what to do.
func (b *Bucket) explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	hint, why := b.cause(err)
	if hint != "" {
		hint = "\nhint: " + hint
	}
	return fmt.Errorf("cannot %s %s: %w%s", doing, b.url, why, hint)
}

func (b *Bucket) cause(err error) (hint string, why error) {
	var certificate *tls.CertificateVerificationError
	var dial *net.OpError
	var name *net.DNSError
	var asked *url.Error
	switch {
	case errors.As(err, &certificate):
		return b.distrusted(certificate.Err)
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "backups go over HTTPS alone; have it speak that, with a certificate of the site's authority", errors.New("it does not speak TLS")
	case errors.As(err, &name):
		return "the node asks the servers of nodes[].dns; name the target by its IP address, and none has to work", name
	case errors.As(err, &dial) && dial.Op == "dial":
		return "is it switched on, and are address, port and the node's gateway right?", dial
	case errors.As(err, &asked):
		return "", asked.Err // without the request, which says nothing more
	}
	var r minio.ErrorResponse
	if !errors.As(err, &r) {
		return "", err
	}
	said := fmt.Errorf("%s (%s)", plain(r.Message), plain(r.Code))
	switch r.Code {
	case minio.InvalidAccessKeyID, minio.SignatureDoesNotMatch:
		return "give the node other credentials, as it was given these", fmt.Errorf("%w: %w", ErrRefused, said)
	case minio.AccessDenied, minio.AllAccessDisabled:
		return fmt.Sprintf("the access key must be allowed to list the bucket %s and its uploads, and to write, read and delete in it", b.bucket), said
	case minio.NoSuchBucket:
		return fmt.Sprintf("make the bucket %s there; the node makes none", b.bucket), said
	case minio.RequestTimeTooSkewed, "RequestExpired":
		return "its clock and the node's differ by more than a quarter of an hour; give both a time server", said
	case minio.AuthorizationHeaderMalformed, minio.InvalidRegion, "IllegalLocationConstraintException", "PermanentRedirect":
		return "name the target's region in site.yaml, as backups.region", said
	}
	full := strings.Contains(r.Code, "StorageFull") || strings.Contains(r.Code, "Quota") || strings.Contains(r.Code, "InsufficientStorage") ||
		r.StatusCode == http.StatusInsufficientStorage || strings.Contains(strings.ToLower(r.Message), "no space left")
	if full {
		return "it has no room: give it more, or have fewer backups stay (backups.keep)", said
	}
	return "", said
}

// distrusted says why the certificate that a target shows does not count.
func (b *Bucket) distrusted(err error) (hint string, why error) {
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &host):
		return "its certificate must have the address that site.yaml names it by", err
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "it needs a new certificate; or the node's clock is wrong", err
	}
	return "if it has a new authority, put that into the file that site.yaml names as backups.authority; if not, somebody is in its place", err
}

// plain is a target's text as one line of bounded length.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}
