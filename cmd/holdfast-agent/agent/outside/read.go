package outside

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Try is all that one pod or unit sent to one place outside, in connections
// begun or datagrams that nobody had answered yet.
type Try struct {
	Who     string `json:"who"` // "pod NAMESPACE/NAME", "unit NAME", or "unknown", with what is known
	From    string `json:"from,omitempty"`
	To      string `json:"to"` // an address, with the port where there is one
	Proto   string `json:"proto"`
	Packets int64  `json:"packets"`
}

func (t Try) String() string {
	return fmt.Sprintf("%s: %s to %s (%d packets)", t.Who, t.Proto, t.To, t.Packets)
}

// Names are pods, as NAMESPACE/NAME.
type Names struct {
	ByAddress map[netip.Addr]string
	ByUID     map[string]string
}

// Counted is what the table holds.
type Counted struct {
	Tries []Try
	Lost  int64 // packets for which there was no room
}

// Read understands what "nft --json list table inet holdfast-outside" prints,
// with the names of the pods that there are.
func Read(listing []byte, names Names) (Counted, error) {
	var doc struct {
		Nftables []struct {
			Set *struct {
				Name string `json:"name"`
				Elem []struct {
					Elem struct {
						Val     struct{ Concat []any }
						Counter struct{ Packets int64 }
					}
				} `json:"elem"`
			} `json:"set"`
			Counter *struct {
				Name    string `json:"name"`
				Packets int64  `json:"packets"`
			} `json:"counter"`
		} `json:"nftables"`
	}
	d := json.NewDecoder(bytes.NewReader(listing))
	d.UseNumber() // a control group that is gone is one
	if err := d.Decode(&doc); err != nil {
		return Counted{}, fmt.Errorf("cannot read what nft lists: %w", err)
	}
	var c Counted
	types := keys()
	for _, n := range doc.Nftables {
		if n.Counter != nil && n.Counter.Name == "lost" {
			c.Lost = n.Counter.Packets
		}
		if n.Set == nil || types[n.Set.Name] == "" {
			continue
		}
		fields := strings.Count(types[n.Set.Name], " . ") + 1
		for _, e := range n.Set.Elem {
			key := e.Elem.Val.Concat
			if len(key) != fields {
				return Counted{}, fmt.Errorf("cannot read what nft lists: %v in set %s has not %d parts", key, n.Set.Name, fields)
			}
			t := Try{Packets: e.Elem.Counter.Packets}
			switch from := fmt.Sprint(key[0]); n.Set.Name {
			case "deep":
				t.Who, key = names.groups(from, fmt.Sprint(key[1])), key[2:]
			case "units", "slices":
				t.Who, key = names.group(from), key[1:]
			default:
				t.From, t.Who, key = from, names.address(from), key[1:]
			}
			t.To, t.Proto = fmt.Sprint(key[0]), fmt.Sprint(key[1])
			if len(key) == 3 {
				t.To += fmt.Sprintf(":%v", key[2])
			}
			c.Tries = append(c.Tries, t)
		}
	}
	slices.SortFunc(c.Tries, func(a, b Try) int {
		return cmp.Or(cmp.Compare(a.Who, b.Who), cmp.Compare(a.To, b.To), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.From, b.From))
	})
	return c, nil
}

func (n Names) address(ip string) string {
	if a, err := netip.ParseAddr(ip); err == nil && n.ByAddress[a] != "" {
		return "pod " + n.ByAddress[a]
	}
	return "unknown"
}

// podSlice is how the kubelet names a pod's control group; "_" stands for "-".
var podSlice = regexp.MustCompile(`(?:^|-)pod([0-9a-f_]+)\.slice$`)

// groups names whoever is in one control group below another: a pod by the slice
// that is its, else a unit.
func (n Names) groups(above, below string) string {
	if podSlice.MatchString(path.Base(below)) {
		return n.group(below)
	}
	return n.group(above)
}

// group names a control group below the root: a unit's, or one of a pod that
// uses the node's own network. nft gives a number for one that is gone.
func (n Names) group(name string) string {
	for part := range strings.SplitSeq(name, "/") {
		if m := podSlice.FindStringSubmatch(part); m != nil {
			uid := strings.ReplaceAll(m[1], "_", "-")
			if pod := n.ByUID[uid]; pod != "" {
				return "pod " + pod
			}
			return "unknown pod with UID " + uid
		}
	}
	switch unit := path.Base(name); path.Ext(unit) {
	case ".service", ".scope", ".slice", ".mount", ".socket", ".swap":
		return "unit " + unit
	}
	return "unknown, of control group " + name
}
