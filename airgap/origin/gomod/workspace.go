package gomod

import (
	"os"
	"path/filepath"

	"holdfast.dev/holdfast/image/gobuild"
)

// workspace writes the recipe's files to src, in a directory of its own that the
// caller removes, and gives the environment of a go command in it.
func workspace(goroot string, recipe gobuild.Recipe, cacheDir string) (src string, env []string, err error) {
	work, err := os.MkdirTemp("", "holdfast-gomod-*")
	if err != nil {
		return "", nil, err
	}
	src = filepath.Join(work, "src")
	if err = gobuild.WriteFiles(src, recipe.Files); err == nil {
		env, err = environment(goroot, cacheDir, work)
	}
	if err != nil {
		os.RemoveAll(work)
	}
	return src, env, err
}

// environment is a build's, so that both see the same modules; the network's
// settings are put after it.
func environment(goroot, cacheDir, work string) ([]string, error) {
	home := filepath.Join(work, "home")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return nil, err
	}
	cache, err := filepath.Abs(ModCache(cacheDir))
	if err != nil {
		return nil, err
	}
	return gobuild.Inputs{GoRoot: goroot, ModCache: cache, BuildCache: filepath.Join(home, "cache")}.Env(home), nil
}
