module holdfast.dev/recipe/valkey-start

go 1.26.0
