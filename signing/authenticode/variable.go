package authenticode

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unicode/utf16"
)

// Variable names one of the variables in which firmware keeps whom it trusts:
// the owner of the machine, who may change the next, who signs what boots.
type Variable string

const (
	PK  Variable = "PK"
	KEK Variable = "KEK"
	DB  Variable = "db"
)

// GUID is a GUID as it is in memory: its first three numbers little endian.
type GUID [16]byte

const (
	guidGlobal   = "\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c" // EFI_GLOBAL_VARIABLE
	guidSecurity = "\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f" // EFI_IMAGE_SECURITY_DATABASE_GUID
	guidX509     = "\xa1\x59\xc0\xa5\xe4\x94\xa7\x4a\x87\xb5\xab\x15\x5c\x2b\xf0\x72" // EFI_CERT_X509_GUID
	guidPKCS7    = "\x9d\xd2\xaf\x4a\xdf\x68\xee\x49\x8a\xa9\x34\x7d\x37\x56\x65\xa7" // EFI_CERT_TYPE_PKCS7_GUID
)

const (
	// variableAttributes: non-volatile, boot service and runtime access,
	// time-based authenticated write access.
	variableAttributes = 0x27
	listHeader         = 28
	ownerSize          = 16
	timeSize           = 16
	authHeader         = 24 // WIN_CERTIFICATE_UEFI_GUID before its data
	typeEFIGUID        = 0x0ef1
	maxVariable        = 64 << 10
)

var oidData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}

// detachedData is a signedData whose content is elsewhere.
type detachedData struct {
	Version    int
	Algorithms []pkix.AlgorithmIdentifier `asn1:"set"`
	Content    struct {
		Type asn1.ObjectIdentifier
	}
	Certificates asn1.RawValue `asn1:"optional,tag:0"`
	Signers      []signerInfo  `asn1:"set"`
}

func (v Variable) vendor() (string, error) {
	switch v {
	case PK, KEK:
		return guidGlobal, nil
	case DB:
		return guidSecurity, nil
	}
	return "", fmt.Errorf("internal error: no variable %q is known", v)
}

// SignatureLists is the content of a variable that holds certificates: an
// EFI_SIGNATURE_LIST for each (UEFI specification 2.10, section 32.4.1).
func SignatureLists(owner GUID, certs ...*x509.Certificate) []byte {
	le := binary.LittleEndian
	var b []byte
	for _, c := range certs {
		size := uint32(ownerSize + len(c.Raw))
		b = append(b, guidX509...)
		b = le.AppendUint32(b, listHeader+size)
		b = le.AppendUint32(b, 0)
		b = le.AppendUint32(b, size)
		b = append(b, owner[:]...)
		b = append(b, c.Raw...)
	}
	return b
}

// SignVariable makes the update that sets v to data: an
// EFI_VARIABLE_AUTHENTICATION_2 and the data (UEFI specification 2.10, section
// 8.2.2), as files named .auth hold it. Firmware wants each update's time to be
// later than the one before. RSA takes no randomness here, so equal input gives
// equal bytes.
func SignVariable(v Variable, data []byte, at time.Time, cert *x509.Certificate, key crypto.Signer) ([]byte, error) {
	b, err := signVariable(v, data, at, cert, key)
	if err != nil {
		return nil, fmt.Errorf("cannot sign %s: %w", v, err)
	}
	return b, nil
}

func signVariable(v Variable, data []byte, at time.Time, cert *x509.Certificate, key crypto.Signer) ([]byte, error) {
	if err := checkKey(cert, key); err != nil {
		return nil, err
	}
	when, err := efiTime(at)
	if err != nil {
		return nil, err
	}
	sum, err := variableDigest(v, when, data)
	if err != nil {
		return nil, err
	}
	sig, err := key.Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return marshalUpdate(when, data, cert, sig)
}

func marshalUpdate(when, data []byte, cert *x509.Certificate, sig []byte) ([]byte, error) {
	sha := pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: asn1.NullRawValue}
	sd := detachedData{
		Version:      1,
		Algorithms:   []pkix.AlgorithmIdentifier{sha},
		Certificates: tagged(cert.Raw),
		Signers: []signerInfo{{
			Version:            1,
			Signer:             issuerAndSerial{asn1.RawValue{FullBytes: cert.RawIssuer}, cert.SerialNumber},
			DigestAlgorithm:    sha,
			SignatureAlgorithm: pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: asn1.NullRawValue},
			Signature:          sig,
		}},
	}
	sd.Content.Type = oidData
	// Without the ContentInfo around it: older firmware takes no other form.
	der, err := asn1.Marshal(sd)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	b := bytes.Clone(when)
	b = le.AppendUint32(b, uint32(authHeader+len(der)))
	b = le.AppendUint16(b, revision2)
	b = le.AppendUint16(b, typeEFIGUID)
	b = append(b, guidPKCS7...)
	b = append(b, der...)
	if b = append(b, data...); len(b) > maxVariable {
		return nil, fmt.Errorf("%d bytes are more than the %d that firmware can be expected to keep", len(b), maxVariable)
	}
	return b, nil
}

// VerifyVariable returns the data of an update of v that cert's key signed,
// and its time. Its error about anything else wraps ErrUntrusted, about one in
// a form other than SignVariable's too: firmware differs in what it takes.
func VerifyVariable(v Variable, update []byte, cert *x509.Certificate) (data []byte, at time.Time, err error) {
	data, at, err = verifyVariable(v, update, cert)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("cannot verify %s: %w: %w", v, ErrUntrusted, err)
	}
	return data, at, nil
}

func verifyVariable(v Variable, update []byte, cert *x509.Certificate) ([]byte, time.Time, error) {
	none := time.Time{}
	le := binary.LittleEndian
	if len(update) < timeSize+authHeader || len(update) > maxVariable {
		return nil, none, fmt.Errorf("%d bytes are no signed update", len(update))
	}
	when, auth := update[:timeSize], update[timeSize:]
	size := int64(le.Uint32(auth))
	if size < authHeader || size > int64(len(auth)) {
		return nil, none, fmt.Errorf("a signature of %d bytes in %d", size, len(auth))
	}
	at := time.Date(int(le.Uint16(when)), time.Month(when[2]), int(when[3]), int(when[4]), int(when[5]), int(when[6]), 0, time.UTC)
	if again, err := efiTime(at); err != nil || !bytes.Equal(again, when) {
		return nil, none, errors.New("its time is none")
	}
	var sd detachedData
	if err := unmarshal(auth[authHeader:size], &sd); err != nil {
		return nil, none, fmt.Errorf("signature: %w", err)
	}
	if len(sd.Signers) != 1 {
		return nil, none, fmt.Errorf("%d signers", len(sd.Signers))
	}
	pub, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok || pub.N.BitLen() < minKeyBits {
		return nil, none, fmt.Errorf("certificate %q has no RSA key of at least %d bits", cert.Subject, minKeyBits)
	}
	data := auth[size:]
	sum, err := variableDigest(v, when, data)
	if err != nil {
		return nil, none, err
	}
	if err := rsa.VerifyPKCS1v15(pub, crypto.SHA256, sum[:], sd.Signers[0].Signature); err != nil {
		return nil, none, fmt.Errorf("signature by %q: %w", cert.Subject, err)
	}
	if again, err := marshalUpdate(when, data, cert, sd.Signers[0].Signature); err != nil || !bytes.Equal(again, update) {
		return nil, none, errors.New("it is not in the form that firmware wants")
	}
	return data, at, nil
}

// variableDigest is over what firmware checks: name without its end, vendor,
// attributes, time, data.
func variableDigest(v Variable, when, data []byte) ([32]byte, error) {
	vendor, err := v.vendor()
	if err != nil {
		return [32]byte{}, err
	}
	le := binary.LittleEndian
	var b []byte
	for _, u := range utf16.Encode([]rune(string(v))) {
		b = le.AppendUint16(b, u)
	}
	b = append(b, vendor...)
	b = le.AppendUint32(b, variableAttributes)
	b = append(b, when...)
	return sha256.Sum256(append(b, data...)), nil
}

// efiTime gives a time as EFI_TIME (UEFI specification 2.10, section 8.3.1), in
// the form for signed updates: UTC, no fraction of a second, all else zero.
func efiTime(at time.Time) ([]byte, error) {
	at = at.UTC()
	if at.Year() < 1900 || at.Year() > 9999 {
		return nil, fmt.Errorf("the year %d is outside those of UEFI", at.Year())
	}
	b := make([]byte, timeSize)
	binary.LittleEndian.PutUint16(b, uint16(at.Year()))
	for i, n := range []int{int(at.Month()), at.Day(), at.Hour(), at.Minute(), at.Second()} {
		b[2+i] = byte(n)
	}
	return b, nil
}
