module holdfast.dev/recipe/postgres-start

go 1.26.0
