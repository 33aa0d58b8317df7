module holdfast.dev/recipe/pause

go 1.26.0
