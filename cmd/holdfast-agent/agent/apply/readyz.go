package apply

import "strings"

// failedChecks lists the checks that a verbose /readyz reports as failed.
func failedChecks(body string) string {
	var failed []string
	for line := range strings.Lines(body) {
		if name, ok := strings.CutPrefix(line, "[-]"); ok {
			name, _, _ = strings.Cut(strings.TrimSpace(name), " ")
			failed = append(failed, name)
		}
	}
	return strings.Join(failed, ", ")
}
