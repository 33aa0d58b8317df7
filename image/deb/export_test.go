package deb

// AddTarFrom lets the fuzz target do without files.
var AddTarFrom = addTar
