module holdfast.dev/recipe/loki-start

go 1.26.0
