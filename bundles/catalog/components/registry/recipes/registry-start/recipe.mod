module holdfast.dev/recipe/registry-start

go 1.26.0
