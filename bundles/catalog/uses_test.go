package catalog

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"holdfast.dev/holdfast/airgap/store"
)

const hook = `apiVersion: batch/v1
kind: Job
metadata: {name: database-CLIENT, namespace: db}
spec:
  template:
    spec:
      containers:
        - {name: c, image: "example.org/db:1", command: [/make, CLIENT]}
      volumes:
        - {name: s, secret: {secretName: database-CLIENT}}
`

func provider() Component {
	return Component{Name: "db", Namespace: "db", Hooks: map[string]File{"database.yaml": {"db/hooks/database.yaml", []byte(hook)}},
		Offers:  []Offer{{Name: "database", Hook: "database.yaml", Generate: map[string]int{"password": 32}}, {Name: "authority", Share: &Share{Secret: "ca", Keys: []string{"crt"}}}},
		Secrets: []Secret{{Name: "ca", Namespace: "db", Pairs: []Pair{{Key: "key", Certificate: "crt", CommonName: "ca"}}}}}
}

// Two clients of one offer: each gets its own secret and Job, and nobody has to
// be changed for it but the client.
func TestWire(t *testing.T) {
	digests := map[string]store.Digest{"example.org/db:1": store.FromBytes([]byte("1")), "example.org/web:2": store.FromBytes([]byte("2")),
		"example.org/init:1": store.FromBytes(nil), "example.org/helper:3": store.FromBytes(nil)}
	web := webComponent()
	web.Namespace, web.Uses = "web", []Use{{Component: "db", Offer: "database", Secret: "web-database"}, {Component: "db", Offer: "authority", Secret: "web-ca"}}
	mail := Component{Name: "mail", Namespace: "mail", Uses: []Use{{Component: "db", Offer: "database", Secret: "login"}}}
	all, err := Wire([]Component{provider(), web, mail})
	if err != nil {
		t.Fatal(err)
	}
	if got := all[1].AllNeeds(); !slices.Equal(got, []string{"db"}) {
		t.Errorf("web needs %v", got)
	}
	wantSecrets := []Secret{
		{Name: "web-database", Namespace: "web", Generate: map[string]int{"password": 32}},
		{Name: "database-web", Namespace: "db", From: &From{Name: "web-database", Namespace: "web"}},
		{Name: "web-ca", Namespace: "web", From: &From{Name: "ca", Namespace: "db", Keys: []string{"crt"}}},
	}
	if !reflect.DeepEqual(all[1].Secrets, wantSecrets) {
		t.Errorf("web's secrets are %+v", all[1].Secrets)
	}
	var names []string
	for _, c := range all[1:] {
		files, err := Render(c, digests)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(files, func(f File) bool { return f.Name == "45-hooks.yaml" })
		if i < 0 || i+1 < len(files) && files[i+1].Name != "50-workloads.yaml" {
			t.Fatalf("hooks are not before workloads: %v", files)
		}
		first, err := First(c, digests)
		if err != nil || len(first) != 1 || !bytes.Contains(files[i].Data, []byte("name: "+first[0].Name+"\n")) {
			t.Errorf("%v, %v; the Job is\n%s", first, err, files[i].Data)
		}
		if bytes.Contains(files[i].Data, []byte("CLIENT")) || !bytes.Contains(files[i].Data, []byte("example.org/db:1@sha256:")) {
			t.Errorf("the hook is\n%s", files[i].Data)
		}
		names = append(names, first[0].Name)
	}
	if !strings.HasPrefix(names[0], "database-web-") || !strings.HasPrefix(names[1], "database-mail-") {
		t.Errorf("the Jobs are %v", names)
	}
	// Jobs cannot be changed: what does something else has another name.
	digests["example.org/db:1"] = store.FromBytes([]byte("another"))
	if first, err := First(all[1], digests); err != nil || first[0].Name == names[0] {
		t.Errorf("another image, the same Job: %v, %v", first, err)
	}
	if _, err := Wire([]Component{web}); err == nil || !strings.Contains(err.Error(), "nothing offers it database of db") {
		t.Errorf("error is %v", err)
	}
}

// A client says its own for the words of an offer, and of the site's.
func TestWords(t *testing.T) {
	p := provider()
	p.Offers[0].Words = []string{"BACK"}
	p.Hooks["database.yaml"] = File{"db/hooks/database.yaml", []byte(strings.Replace(hook, "[/make, CLIENT]", "[/make, CLIENT, BACK, BACKWARDS]", 1))}
	web := Component{Name: "web", Namespace: "web", Uses: []Use{{Component: "db", Offer: "database", Secret: "s", Words: map[string]string{"BACK": "https://web.DOMAIN/back"}}}}
	all, err := Wire(Site{Domain: "demo.example"}.Of([]Component{p, web}))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(all[1].hooks[0].Data); !strings.Contains(got, "[/make, web, https://web.demo.example/back, BACKWARDS]") {
		t.Errorf("the hook is %s", got)
	}
	if web.Uses[0].Words["BACK"] != "https://web.DOMAIN/back" {
		t.Error("what was given is changed")
	}
}

func TestBadShapes(t *testing.T) {
	const good = "name: a\ndescription: A.\nnamespace: db\n"
	const image = "images:\n  - name: example.org/db:1\n    source: {debs: [a], user: \"1:1\", cmd: [/a]}\n"
	const offer = "offers: [{name: database, hook: database.yaml}]\n"
	for _, c := range []struct{ name, yaml, hook, want string }{
		{"no such hook", good + "offers: [{name: x, hook: y.yaml}]\n", "", "no hooks/y.yaml"},
		{"an offer of nothing", good + "offers: [{name: x}]\n", "", "either a hook or a secret to share"},
		{"a share of nothing", good + "offers: [{name: x, share: {secret: s, keys: [k]}}]\n", "", "not a secret in its namespace"},
		{"a share of another key", good + "secrets: [{name: s, namespace: db, generate: {p: 32}}]\noffers: [{name: x, share: {secret: s, keys: [k]}}]\n", "", "has no k"},
		{"a hook that is no Job", good + offer + image, strings.Replace(hook, "kind: Job", "kind: Pod", 1), "a hook is one Job"},
		{"a hook elsewhere", good + offer + image, strings.Replace(hook, "namespace: db", "namespace: web", 1), "in its own namespace"},
		{"one hook for all", good + offer + image, strings.Replace(hook, "name: database-CLIENT", "name: database", 1), "CLIENT in its name"},
		{"a foreign image in a hook", good + offer, hook, "not an image of the release"},
		{"an offer that is not there", good + "uses: [{component: a, offer: x, secret: s}]\n", "", "which nothing offers"},
		{"a word that its hook has not", good + image + "offers: [{name: database, hook: database.yaml, words: [BACK]}]\n", hook, `"BACK" is no word of capitals in its hook`},
		{"a word of the site's", good + image + "offers: [{name: database, hook: database.yaml, words: [CLIENT]}]\n", hook, `"CLIENT" is no word`},
		{"a word unsaid", good + image + "offers: [{name: database, hook: database.yaml, words: [BACK]}]\nuses: [{component: a, offer: database}]\n", strings.Replace(hook, "/make", "/BACK", 1), `has to say ["BACK"], and says []`},
		{"a word with a quote", good + image + "offers: [{name: database, hook: database.yaml, words: [BACK]}]\nuses: [{component: a, offer: database, words: {BACK: 'a\"b'}}]\n", strings.Replace(hook, "/make", "/BACK", 1), `BACK is "a\"b"`},
		{"another word for rollback", good + "rollback: maybe\n", "", `rollback is "maybe"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys := fstest.MapFS{"components/a/component.yaml": {Data: []byte(c.yaml)}}
			if c.hook != "" {
				fsys["components/a/hooks/database.yaml"] = &fstest.MapFile{Data: []byte(c.hook)}
			}
			if _, err := load(fsys); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
		})
	}
	fsys := fstest.MapFS{"components/a/component.yaml": {Data: []byte(good + offer + image)}, "components/a/hooks/database.yaml": {Data: []byte(hook)}}
	if _, err := load(fsys); err != nil {
		t.Errorf("the good one: %v", err)
	}
	fsys["components/a/manifests/claim.yaml"] = &fstest.MapFile{Data: []byte("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data, namespace: db}\n")}
	if _, err := load(fsys); err == nil || !strings.Contains(err.Error(), "one that keeps data says") {
		t.Errorf("error is %v", err)
	}
}
