package lab

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestStatusOfANewerAgent(t *testing.T) {
	const said = `{"phase":"healthy","update":{"step":"trial","from":1,"to":2,"failed":{"release":2,"reason":"no\nnode"},"reason":""},"node":{"name":"n","ready":true,"zone":"x"},"slots":["a",2],"note":null}`
	var s Status
	if err := json.Unmarshal([]byte(said), &s); err != nil || !s.Healthy() || s.Node.Name != "n" {
		t.Fatalf("%+v, %v", s, err)
	}
	want := []Field{{"update", "step trial, from 1, to 2, failed release 2, reason no node"}, {"slots", `["a",2]`}, {"note", ""}}
	if !slices.Equal(s.Other, want) {
		t.Errorf("%q", s.Other)
	}
	if b, err := json.Marshal(s); err != nil || string(b) != said {
		t.Errorf("%s, %v", b, err)
	}
	if b, err := json.Marshal(Status{Phase: "starting"}); err != nil || !strings.Contains(string(b), `"phase":"starting"`) || strings.Contains(string(b), "Other") {
		t.Errorf("%s, %v", b, err)
	}
	if err := json.Unmarshal([]byte(`[]`), &s); err == nil {
		t.Error("a list was taken for a status")
	}
}
