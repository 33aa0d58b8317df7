package deb

import (
	"bytes"
	"crypto"
	"embed"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"holdfast.dev/holdfast/airgap/store"
)

// ErrUntrusted is wrapped by errors about a Release that no key of the keyring
// signed, or whose signature no longer counts.
var ErrUntrusted = errors.New("not signed by a trusted key")

// ErrExpired is wrapped by errors about a Release past its Valid-Until.
var ErrExpired = errors.New("expired")

const (
	maxRelease = 16 << 20 // bytes
	pgpBegin   = "-----BEGIN PGP SIGNED MESSAGE-----"
)

//go:embed keys/*.pgp
var archiveKeys embed.FS

// ArchiveKeys are the keys that sign Debian 13 (trixie), as the package
// debian-archive-keyring ships them:
//
//	04B5 4C3C DCA7 9751 B16B  C6B5 2256 29DF 75B1 88BD  archive, 13 (trixie)
//	5E04 A1E3 223A 19A2 0706  E20F 9904 613D 4CCE 68C6  security archive, 13
//	4158 7F7D B8C7 74BC CF13  1416 762F 67A0 B2C3 9DE4  stable release, 13
//	B8B8 0B5B 623E AB6A D877  5C45 B7C5 D7D6 3509 47F8  archive, 12 (bookworm)
//	05AB 9034 0C0C 5E79 7F44  A8C8 254C F3B5 AEC0 A8F0  security archive, 12
//	4D64 FEC1 19C2 0290 67D6  E791 F8D2 585B 8783 D481  stable release, 12
//
// The keys of 12 also sign 13.
func ArchiveKeys() (openpgp.EntityList, error) {
	entries, err := archiveKeys.ReadDir("keys")
	if err != nil {
		return nil, fmt.Errorf("internal error: no archive keys: %w", err)
	}
	var all openpgp.EntityList
	for _, e := range entries {
		b, err := archiveKeys.ReadFile(path.Join("keys", e.Name()))
		if err != nil {
			return nil, fmt.Errorf("internal error: %w", err)
		}
		keys, err := ReadKeyring(b)
		if err != nil {
			return nil, fmt.Errorf("internal error: %s: %w", e.Name(), err)
		}
		all = append(all, keys...)
	}
	return all, nil
}

// ReadKeyring reads OpenPGP public keys, binary or armoured.
func ReadKeyring(b []byte) (openpgp.EntityList, error) {
	read := openpgp.ReadKeyRing
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("-----BEGIN")) {
		read = openpgp.ReadArmoredKeyRing
	}
	keys, err := read(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("cannot read keyring: %w", err)
	}
	if len(keys) == 0 {
		return nil, errors.New("cannot read keyring: no key in it")
	}
	return keys, nil
}

// Release is what a verified InRelease file says.
type Release struct {
	Origin, Suite, Codename, Version string
	Date                             time.Time
	ValidUntil                       time.Time // zero if it does not expire
	ByHash                           bool      // indices are also offered by digest
	Components, Architectures        []string
	Files                            map[string]store.Content // by path below the suite's directory
	Signer                           string                   // fingerprint of the primary key, upper-case hexadecimal
}

// VerifyInRelease checks a clear-signed Release file, whose every byte must be
// signed, by one of the keys at time now. Errors wrap ErrUntrusted or
// ErrExpired where that is the reason.
func VerifyInRelease(b []byte, keys openpgp.EntityList, now time.Time) (Release, error) {
	if len(b) > maxRelease {
		return Release{}, fmt.Errorf("cannot verify Release: over %d bytes", maxRelease)
	}
	if !bytes.HasPrefix(b, []byte(pgpBegin)) {
		return Release{}, fmt.Errorf("cannot verify Release: %w: it does not begin with a signed message", ErrUntrusted)
	}
	block, rest := clearsign.Decode(b)
	if block == nil {
		return Release{}, fmt.Errorf("cannot verify Release: %w: no complete signed message", ErrUntrusted)
	}
	if len(rest) > 0 {
		return Release{}, fmt.Errorf("cannot verify Release: %w: %d bytes after the signed part", ErrUntrusted, len(rest))
	}
	signer, err := verifyBlock(block, keys, now)
	if err != nil {
		return Release{}, fmt.Errorf("cannot verify Release: %w", err)
	}
	r, err := parseRelease(block.Plaintext)
	if err != nil {
		return Release{}, fmt.Errorf("cannot read Release: %w", err)
	}
	r.Signer = strings.ToUpper(fmt.Sprintf("%x", signer.PrimaryKey.Fingerprint))
	if !r.ValidUntil.IsZero() && now.After(r.ValidUntil) {
		return Release{}, fmt.Errorf("cannot use Release of %s: %w: valid until %s, now is %s\nhint: the mirror is stale, or this machine's clock is wrong",
			r.Codename, ErrExpired, r.ValidUntil.Format(time.DateTime), now.UTC().Format(time.DateTime))
	}
	return r, nil
}

func verifyBlock(b *clearsign.Block, keys openpgp.EntityList, now time.Time) (*openpgp.Entity, error) {
	cfg := &packet.Config{Time: func() time.Time { return now }}
	sig, signer, err := openpgp.VerifyDetachedSignature(keys, bytes.NewReader(b.Bytes), b.ArmoredSignature.Body, cfg)
	switch {
	case errors.Is(err, pgperrors.ErrUnknownIssuer):
		return nil, fmt.Errorf("%w\nhint: give the archive's public keys as the site's keyring", ErrUntrusted)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	switch sig.Hash {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return nil, fmt.Errorf("%w: signed over the weak hash %v", ErrUntrusted, sig.Hash)
	}
	if sig.SigType != packet.SigTypeText && sig.SigType != packet.SigTypeBinary {
		return nil, fmt.Errorf("%w: a signature of type %#x", ErrUntrusted, uint8(sig.SigType))
	}
	return signer, nil
}

func parseRelease(text []byte) (Release, error) {
	p, err := ParseParagraph(string(text))
	if err != nil {
		return Release{}, err
	}
	r := Release{
		Origin: p.Get("Origin"), Suite: p.Get("Suite"), Codename: p.Get("Codename"), Version: p.Get("Version"),
		ByHash:        p.Get("Acquire-By-Hash") == "yes",
		Components:    strings.Fields(p.Get("Components")),
		Architectures: strings.Fields(p.Get("Architectures")),
		Files:         map[string]store.Content{},
	}
	if r.Date, err = parseDate(p.Get("Date")); err != nil {
		return Release{}, err
	}
	if v := p.Get("Valid-Until"); v != "" {
		if r.ValidUntil, err = parseDate(v); err != nil {
			return Release{}, err
		}
	}
	for line := range strings.Lines(p.Get("SHA256")) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 {
			return Release{}, fmt.Errorf("not a line of the SHA256 table: %.80q", line)
		}
		d, err := store.ParseDigest("sha256:" + f[0])
		if err != nil {
			return Release{}, err
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil || n < 0 {
			return Release{}, fmt.Errorf("not a size: %.40q", f[1])
		}
		r.Files[f[2]] = store.Content{Digest: d, Size: n}
	}
	if len(r.Files) == 0 {
		return Release{}, errors.New("no SHA256 table")
	}
	return r, nil
}

func parseDate(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC1123, time.RFC1123Z, "Mon, _2 Jan 2006 15:04:05 MST", "Mon, _2 Jan 2006 15:04:05 -0700"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("not a date: %.60q", s)
}

// limited is a reader that fails, rather than ends, past n bytes.
type limited struct {
	r io.Reader
	n int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.n < 0 {
		return 0, errors.New("longer than allowed")
	}
	if int64(len(p)) > l.n+1 {
		p = p[:l.n+1]
	}
	n, err := l.r.Read(p)
	if l.n -= int64(n); l.n < 0 {
		return n - 1, errors.New("longer than allowed")
	}
	return n, err
}
