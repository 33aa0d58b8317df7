module holdfast.dev/recipe/keycloak-start

go 1.26.0
