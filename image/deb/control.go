package deb

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	maxParagraph = 4 << 20 // bytes; the longest in the archive is under 100 KiB
	maxFields    = 200
)

// Field is one field of a paragraph. The value of a folded field keeps its
// line breaks, each line without surrounding blanks.
type Field struct{ Name, Value string }

// Paragraph is a block of fields as in a control file, in the file's order.
type Paragraph []Field

// Get returns the value of a field, whose name has no case, or "".
func (p Paragraph) Get(name string) string {
	for _, f := range p {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// ParseParagraph reads text that is exactly one paragraph.
func ParseParagraph(text string) (Paragraph, error) {
	var one Paragraph
	n := 0
	err := ReadParagraphs(strings.NewReader(text), func(p Paragraph) error {
		one = append(one, p...)
		n++
		return nil
	})
	if err == nil && n != 1 {
		err = fmt.Errorf("cannot read control data: want one paragraph, found %d", n)
	}
	if err != nil {
		return nil, err
	}
	return one, nil
}

// ReadParagraphs calls fn for each paragraph of r. The paragraph is valid only
// during the call; its strings share one allocation, so keep them by
// [strings.Clone]. A paragraph over 4 MiB is an error.
func ReadParagraphs(r io.Reader, fn func(Paragraph) error) error {
	br := bufio.NewReaderSize(r, 1<<16)
	var block []byte
	var para Paragraph
	line, start := 0, 0
	flush := func() error {
		if len(block) == 0 {
			return nil
		}
		var err error
		if para, err = splitFields(para[:0], string(block)); err != nil {
			return fmt.Errorf("cannot read the paragraph at line %d: %w", start, err)
		}
		block = block[:0]
		if len(para) == 0 {
			return nil // only comments
		}
		return fn(para)
	}
	for {
		part, err := br.ReadSlice('\n')
		whole := err == nil
		if errors.Is(err, bufio.ErrBufferFull) {
			err = nil
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("cannot read control data: %w", err)
		}
		// A blank line ends the paragraph, unless it is the tail of a long line.
		fresh := len(block) == 0 || block[len(block)-1] == '\n'
		if whole {
			line++
		}
		if fresh && whole && len(strings.TrimSpace(string(part))) == 0 {
			if err := flush(); err != nil {
				return err
			}
		} else {
			if len(block) == 0 {
				start = max(line, 1)
			}
			if len(block)+len(part) > maxParagraph {
				return fmt.Errorf("cannot read the paragraph at line %d: over %d bytes", start, maxParagraph)
			}
			block = append(block, part...)
		}
		if err == io.EOF {
			return flush()
		}
	}
}

func splitFields(p Paragraph, text string) (Paragraph, error) {
	for text != "" {
		line, rest, _ := strings.Cut(text, "\n")
		text = rest
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			return nil, fmt.Errorf("a continuation line without a field: %.40q", line)
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !validFieldName(name) {
			return nil, fmt.Errorf("not a field: %.40q", line)
		}
		value = strings.TrimSpace(value)
		if text != "" && (text[0] == ' ' || text[0] == '\t') {
			value, text = unfold(value, text)
		}
		if len(p) == maxFields {
			return nil, fmt.Errorf("over %d fields", maxFields)
		}
		if p.has(name) {
			return nil, fmt.Errorf("field %.40q twice", name)
		}
		p = append(p, Field{name, value})
	}
	return p, nil
}

func (p Paragraph) has(name string) bool {
	for _, f := range p {
		// Comparing lengths first is most of the speed of reading an index.
		if len(f.Name) == len(name) && strings.EqualFold(f.Name, name) {
			return true
		}
	}
	return false
}

func unfold(first, text string) (value, rest string) {
	var b strings.Builder
	b.WriteString(first)
	for text != "" && (text[0] == ' ' || text[0] == '\t') {
		line, after, _ := strings.Cut(text, "\n")
		b.WriteByte('\n')
		b.WriteString(strings.TrimSpace(line))
		text = after
	}
	return b.String(), text
}

func validFieldName(s string) bool {
	if s == "" || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
