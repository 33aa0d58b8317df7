package overlays

import (
	"embed"
	"fmt"

	"github.com/goccy/go-yaml"
)

//go:embed zones/*.yaml
var zoneFiles embed.FS

// Rules are what a zone asks of its sites.
type Rules struct {
	Signers         int    `yaml:"signers" json:"signers"`                 // different people whose signatures a release needs
	HSM             bool   `yaml:"hsm" json:"hsm"`                         // signing keys must be in hardware
	DevelopmentKeys bool   `yaml:"developmentKeys" json:"developmentKeys"` // keys marked so are accepted
	VarEncryption   bool   `yaml:"varEncryption" json:"varEncryption"`     // the writable partition must be encrypted
	SSH             string `yaml:"ssh" json:"ssh"`                         // "allowed" or "forbidden"
	LabAccess       bool   `yaml:"labAccess" json:"labAccess"`             // the lab's serial port is honoured
}

// Zones are the names of all zones, least strict first.
func Zones() []string { return []string{"official", "official-sensitive", "secret"} }

// Zone returns the rules of a zone.
func Zone(name string) (Rules, error) {
	for _, z := range Zones() {
		if z != name {
			continue
		}
		data, err := zoneFiles.ReadFile("zones/" + z + ".yaml")
		if err != nil {
			return Rules{}, fmt.Errorf("internal error: cannot read zone %s: %w", name, err)
		}
		return parseRules(name, data)
	}
	err := fmt.Errorf("cannot find zone %q", name)
	if hint := didYouMean(name, Zones()); hint != "" {
		err = fmt.Errorf("%w\nhint: %s", err, hint)
	}
	return Rules{}, err
}

func parseRules(name string, data []byte) (Rules, error) {
	var r Rules
	if err := yaml.UnmarshalWithOptions(data, &r, yaml.Strict()); err != nil {
		return Rules{}, fmt.Errorf("cannot read zone %s: %w", name, err)
	}
	// The zero value must never pass for a rule.
	if r.Signers < 1 || r.SSH != "allowed" && r.SSH != "forbidden" {
		return Rules{}, fmt.Errorf("cannot read zone %s: signers and ssh must be given", name)
	}
	return r, nil
}
