package charts

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	chart "helm.sh/helm/v4/pkg/chart/v2"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// fitting holds the values of a chart and of its dependencies against their
// values.schema.json. What a schema refers to elsewhere is not fetched: that is
// an error.
func fitting(c *chart.Chart, values map[string]any, at string) error {
	var errs []error
	if len(c.Schema) > 0 {
		errs = append(errs, fits(c.Schema, values, c.Name(), at))
	}
	for _, in := range c.Dependencies() {
		if table, ok := values[in.Name()].(map[string]any); ok {
			errs = append(errs, fitting(in, table, at+in.Name()+"."))
		}
	}
	return errors.Join(errs...)
}

type refused struct{}

// Load is for what a schema refers to by a URL.
func (refused) Load(url string) (any, error) {
	return nil, fmt.Errorf("it refers to %.200s, and nothing is fetched", url)
}

func fits(schema []byte, values map[string]any, name, at string) error {
	fail := func(err error) error {
		return fmt.Errorf("cannot use values.schema.json of chart %s: %w", name, err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return fail(err)
	}
	const id = "chart:///values.schema.json"
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(refused{})
	if err := compiler.AddResource(id, doc); err != nil {
		return fail(err)
	}
	compiled, err := compiler.Compile(id)
	if err != nil {
		return fail(err)
	}
	err = compiled.Validate(values)
	var wrong *jsonschema.ValidationError
	if err != nil && !errors.As(err, &wrong) {
		return fail(err)
	}
	return errors.Join(wrongValues(wrong, name, at)...)
}

func wrongValues(e *jsonschema.ValidationError, name, at string) []error {
	if e == nil {
		return nil
	}
	if len(e.Causes) > 0 {
		var all []error
		for _, c := range e.Causes {
			all = append(all, wrongValues(c, name, at)...)
		}
		return all
	}
	value := at + strings.Join(e.InstanceLocation, ".")
	said := e.ErrorKind.LocalizedString(message.NewPrinter(language.English))
	if k, ok := e.ErrorKind.(*kind.Required); ok {
		said = "missing " + strings.Join(k.Missing, ", ")
	}
	if value = strings.TrimSuffix(value, "."); value == "" {
		value = "the values"
	}
	return []error{fmt.Errorf("cannot use the values: chart %s does not take %s: %s", name, value, said)}
}
