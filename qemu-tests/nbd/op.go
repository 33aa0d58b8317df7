package nbd

import "math/rand/v2"

// Sector is what a disk writes whole or not at all; offsets and lengths are
// multiples of it.
const Sector = 512

// Kind is what an operation does.
type Kind byte

const (
	Write Kind = iota + 1
	Trim       // the sectors read as zeros, once it has been done
	Zero
	Flush // all operations before it become durable
)

// Op is one operation that changes the disk or makes changes durable.
type Op struct {
	Kind     Kind
	FUA      bool // durable by itself
	Off, Len int64
}

// KeepAll and KeepNone are the seeds of the two plain power cuts; any other
// seed decides about each operation that was not durable.
const (
	KeepAll  uint64 = 0
	KeepNone uint64 = 1
)

// part is what a power cut leaves of an operation: its bytes [from, to).
type part struct{ from, to int64 }

// remains says what a power cut leaves of operations that no flush has made
// durable. Applied in their order, the parts make a state that a disk with a
// write-back cache can be in: such a disk may have written any of the sectors,
// but an operation with FUA was acknowledged as written.
func remains(ops []Op, seed uint64) []part {
	r := rand.New(rand.NewPCG(seed, 0x686f6c6466617374))
	// Some faults need nearly all writes to be there, others nearly none.
	keep := []float64{0.05, 0.5, 0.5, 0.95}[r.IntN(4)]
	parts := make([]part, len(ops))
	for i, op := range ops {
		chance, how, cut := r.Float64(), r.IntN(4), r.Int64N(max(op.Len/Sector, 1))*Sector
		switch {
		case op.FUA || seed == KeepAll, seed != KeepNone && chance < keep:
			parts[i] = part{0, op.Len}
		case seed == KeepNone || how < 2: // dropped
		case how == 2:
			parts[i] = part{0, cut}
		default:
			parts[i] = part{cut, op.Len}
		}
	}
	return parts
}
