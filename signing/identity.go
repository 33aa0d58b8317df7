package signing

import (
	"errors"
	"fmt"
	"regexp"
)

// Identity is somebody who signs without a key that others know: whom a
// certificate of Sigstore's names, and who vouched for that. One of Subject and
// Pattern is given, and Issuer always.
type Identity struct {
	Subject string `json:"identity,omitempty"`        // an address, or the URI of a workflow
	Pattern string `json:"identityPattern,omitempty"` // RE2; the whole subject must match
	Issuer  string `json:"issuer,omitempty"`          // URL of the OpenID provider
}

// Check returns what is wrong with i.
func (i Identity) Check() error {
	switch {
	case (i.Subject == "") == (i.Pattern == ""):
		return errors.New("one of identity and identityPattern is wanted")
	case i.Issuer == "":
		return errors.New("an identity counts only with its issuer")
	}
	if _, err := regexp.Compile(i.Pattern); err != nil { // by itself: a pattern must not close the group around it
		return fmt.Errorf("identityPattern: %w", err)
	}
	return nil
}

// Whole is the pattern that holds for all of a subject; "" where there is none.
func (i Identity) Whole() string {
	if i.Pattern == "" {
		return ""
	}
	return `\A(?:` + i.Pattern + `)\z`
}

func (i Identity) String() string {
	if i.Pattern != "" {
		return fmt.Sprintf("/%s/ of %s", i.Pattern, i.Issuer)
	}
	return fmt.Sprintf("%s of %s", i.Subject, i.Issuer)
}
