package inventory

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/util/ioutil"
	"github.com/ncruces/go-sqlite3/vfs/readervfs"
)

// databases numbers the names under which SQLite knows what it reads.
var databases atomic.Int64

// parseRPM reads rpm's database: of its table Packages each row has the header
// of an installed package, a BLOB. Nothing of it is written to disk.
func parseRPM(ctx context.Context, data []byte) (ps []Package, bad int, err error) {
	err = eachHeader(ctx, data, func(header []byte) {
		p, err := parseHeader(header)
		switch {
		case err != nil:
			bad++
		case p.Name == "gpg-pubkey": // no package, but a key that was imported
		case !rpmName.MatchString(p.Name), !rpmVersion.MatchString(p.Version), !archForm.MatchString(p.Arch), p.Source != "" && !rpmName.MatchString(p.Source), long(p):
			bad++
		default:
			ps = append(ps, p)
		}
	})
	if err != nil {
		// What SQLite says may have words of the database in it.
		return nil, 0, errors.New("damaged, or no database of rpm, and not read")
	}
	return ps, bad, nil
}

var (
	rpmName    = regexp.MustCompile(`^[A-Za-z0-9._+-]+$`)
	rpmVersion = regexp.MustCompile(`^([0-9]+:)?[A-Za-z0-9._~^+]+-[A-Za-z0-9._~^+]+$`)
)

// eachHeader gives f the headers of the database in turn. The database comes
// from outside: only a plain table counts, not a view or a column that
// SQLite would compute.
func eachHeader(ctx context.Context, data []byte, f func([]byte)) (err error) {
	name := fmt.Sprint("inventory-", databases.Add(1))
	readervfs.Create(name, ioutil.NewSizeReaderAt(bytes.NewReader(data)))
	defer readervfs.Delete(name)
	db, err := sqlite3.OpenFlags("file:"+name+"?vfs=reader&immutable=1", sqlite3.OPEN_READONLY|sqlite3.OPEN_URI)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetInterrupt(ctx)
	db.Limit(sqlite3.LIMIT_LENGTH, maxHeader)
	if err := db.Exec("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON"); err != nil {
		return err
	}
	plain, _, err := db.Prepare("SELECT 1 FROM sqlite_schema WHERE name = 'Packages' AND type = 'table' AND sql LIKE 'CREATE TABLE%'" +
		" AND NOT EXISTS (SELECT 1 FROM pragma_table_xinfo('Packages') WHERE hidden <> 0)")
	if err != nil {
		return err
	}
	has := plain.Step()
	if err := plain.Close(); err != nil {
		return err
	}
	if !has {
		return errors.New("no table Packages")
	}
	rows, _, err := db.Prepare("SELECT blob FROM Packages")
	if err != nil {
		return err
	}
	// Pages that lead to one another could give more rows than there are.
	left := len(data)
	for left >= 0 && rows.Step() {
		b := rows.ColumnRawBlob(0)
		left -= 1 + len(b)
		f(b)
	}
	if err := rows.Close(); err != nil || left >= 0 {
		return err
	}
	return errors.New("more in its rows than in the whole file")
}

// maxHeader bounds the bytes of one header. Those of packages with tens of
// thousands of files have some megabytes.
const maxHeader = 32 << 20

// Tags and types of a header's entries.
const (
	tagName, tagVersion, tagRelease, tagEpoch, tagArch, tagSource = 1000, 1001, 1002, 1003, 1022, 1044

	typeInt32, typeString = 4, 6
)

// parseHeader reads a header as it is in the database: how many entries there
// are and how many bytes of data, both in four bytes, the entries of four
// such numbers (tag, type, offset into the data, count), and the data; all in
// big-endian order (rpm's manual, "RPM v4 header format").
func parseHeader(b []byte) (Package, error) {
	errDamaged := errors.New("a damaged header")
	if len(b) < 8 {
		return Package{}, errDamaged
	}
	entries, size := uint64(binary.BigEndian.Uint32(b)), uint64(binary.BigEndian.Uint32(b[4:]))
	if uint64(len(b)) != 8+16*entries+size {
		return Package{}, errDamaged
	}
	index, data := b[8:8+16*entries], b[8+16*entries:]
	texts := map[uint32]string{}
	for ; len(index) > 0; index = index[16:] {
		tag, kind, offset := binary.BigEndian.Uint32(index), binary.BigEndian.Uint32(index[4:]), uint64(binary.BigEndian.Uint32(index[8:]))
		switch tag {
		case tagName, tagVersion, tagRelease, tagArch, tagSource:
			if offset > size || kind != typeString {
				return Package{}, errDamaged
			}
			text, _, ended := bytes.Cut(data[offset:], []byte{0})
			if !ended {
				return Package{}, errDamaged
			}
			texts[tag] = string(text)
		case tagEpoch:
			if offset+4 > size || kind != typeInt32 {
				return Package{}, errDamaged
			}
			texts[tag] = fmt.Sprint(binary.BigEndian.Uint32(data[offset:]), ":")
		}
	}
	p := Package{Kind: RPM, Name: texts[tagName], Version: texts[tagEpoch] + texts[tagVersion] + "-" + texts[tagRelease], Arch: texts[tagArch]}
	// NAME-VERSION-RELEASE.src.rpm
	source := strings.Split(texts[tagSource], "-")
	if name := strings.Join(source[:max(0, len(source)-2)], "-"); name != p.Name {
		p.Source = name
	}
	return p, nil
}
