package onto

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/cmd/holdfast-registry/registry"
)

const (
	chunk     = 4 << 20         // what a broken connection costs at most
	chunkTime = 5 * time.Minute // 14 kB/s
	mostTries = 8               // in a row that bring nothing further
	mostDelay = 30 * time.Second
)

// warehouse is the registry, asked through the API server: nothing of the
// cluster need be reachable but that.
type warehouse struct {
	client rest.Interface
	token  string
}

func (p Plan) warehouse(ctx context.Context) (warehouse, error) {
	cfg := rest.CopyConfig(p.options.Cluster)
	cfg.APIPath, cfg.GroupVersion = "/api", &schema.GroupVersion{Version: "v1"}
	cfg.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	cfg.Timeout = chunkTime
	c, err := rest.RESTClientFor(cfg)
	if err != nil {
		return warehouse{}, fmt.Errorf("cannot reach the registry: %w", err)
	}
	tokens, there, err := p.values(ctx, Namespace, tokensSecret)
	if err == nil && (!there || tokens["write"] == "") {
		err = fmt.Errorf("cannot reach the registry: the secret %s/%s has no token\nhint: remove the namespace %s and run the command again", Namespace, tokensSecret, Namespace)
	}
	return warehouse{c, tokens["write"]}, err
}

// refusal is an answer of the registry that asking again does not change.
type refusal struct {
	code int
	text string
}

func (r refusal) Error() string { return r.text }

// ask sends one request, and reads the answer into out.
func (w warehouse) ask(ctx context.Context, verb, path string, params map[string]string, body []byte, out any) error {
	q := w.client.Verb(verb).AbsPath("/api/v1/namespaces/"+Namespace+"/services/http:registry:5000/proxy/store/"+path).
		SetHeader(registry.TokenHeader, w.token).SetHeader("Content-Type", "application/octet-stream").Body(body)
	for k, v := range params {
		q = q.Param(k, v)
	}
	var code int
	res := q.Do(ctx).StatusCode(&code)
	b, err := res.Raw()
	if err == nil {
		return json.Unmarshal(b, out)
	}
	var said struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(b, &said) == nil && said.Error != "" {
		err = errors.New(said.Error)
		switch code {
		case http.StatusInsufficientStorage:
			return refusal{code, said.Error + "\nhint: the registry's volume is full: make it larger, or remove what other sites have there"}
		case http.StatusUnprocessableEntity, http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			return refusal{code, said.Error}
		case http.StatusForbidden:
			return refusal{code, said.Error + "\nhint: restart the StatefulSet registry in the namespace " + Namespace + ", which reads the tokens at its start"}
		}
	}
	return err
}

func (w warehouse) missing(ctx context.Context, want []registry.Blob) (m registry.Missing, err error) {
	b, err := json.Marshal(want)
	if err == nil {
		err = w.ask(ctx, http.MethodPost, "missing", nil, b, &m)
	}
	return m, err
}

func (w warehouse) root(ctx context.Context, site string, r registry.Root) error {
	b, err := json.Marshal(r)
	if err == nil {
		err = w.ask(ctx, http.MethodPut, "roots/"+site, nil, b, &struct{}{})
	}
	return err
}

// push brings what the registry lacks of the release's images, and has it count
// beside what is there. It tries again, from where it stopped, as long as tries
// bring something.
func (p Plan) push(ctx context.Context) (sent int64, err error) {
	w, err := p.warehouse(ctx)
	if err != nil {
		return 0, err
	}
	root := p.payload.root()
	var want []registry.Blob
	for _, c := range p.payload.blobs {
		want = append(want, registry.Blob{Digest: c.Digest, Size: c.Size})
	}
	want = append(want, root)
	var total int64
	for tries, delay := 0, time.Second; ; {
		before := sent
		m, err := w.missing(ctx, want)
		if err == nil && total == 0 {
			if total, err = need(m); err != nil {
				return sent, err
			}
		}
		if err == nil && len(m.Blobs) == 0 {
			err = w.root(ctx, p.site, registry.Root{Digest: root.Digest, Size: root.Size, Keep: true})
			if err == nil {
				return sent, nil
			}
		}
		if err == nil {
			for _, b := range m.Blobs {
				err = p.sendBlob(ctx, w, b, func(n int64) {
					sent += n
					if p.options.Report.Bytes != nil {
						p.options.Report.Bytes(sent, total, b.Digest.Hex()[:12])
					}
				})
				if err != nil {
					break
				}
			}
			if err == nil {
				tries, delay = 0, time.Second
				continue
			}
		}
		var no refusal
		if sent > before {
			tries, delay = 0, time.Second
		}
		if tries++; tries > mostTries || errors.As(err, &no) || errors.Is(err, store.ErrMismatch) || ctx.Err() != nil {
			return sent, fmt.Errorf("cannot bring the images: %w", err)
		}
		if p.options.Report.Wait != nil {
			p.options.Report.Wait("the registry did not answer as it should, and is asked again: " + err.Error())
		}
		if serr := p.options.Sleep(ctx, delay); serr != nil {
			return sent, fmt.Errorf("cannot bring the images: %w: %w", serr, err)
		}
		delay = min(2*delay, mostDelay)
	}
}

// need is how many bytes are to be sent, if the disk has room for them.
func need(m registry.Missing) (total int64, err error) {
	for _, b := range m.Blobs {
		total += b.Size - b.Have
	}
	const reserve = 64 << 20
	if total > 0 && total+reserve > m.Free {
		return total, fmt.Errorf("cannot bring the images: %d MiB are to be brought, and the registry's volume has %d MiB free\nhint: make the volume of the claim %s/registry larger", total>>20, m.Free>>20, Namespace)
	}
	return total, nil
}

// sendBlob sends what the registry lacks of b.
func (p Plan) sendBlob(ctx context.Context, w warehouse, b registry.Blob, sent func(int64)) error {
	var r io.ReadCloser = io.NopCloser(bytes.NewReader(p.payload.index))
	if b.Digest != p.payload.root().Digest {
		var err error
		// Checked at its end; and the registry takes no other bytes.
		if r, err = p.options.Release.OpenBlob(store.Content{Digest: b.Digest, Size: b.Size}); err != nil {
			return err
		}
	}
	defer r.Close()
	if _, err := io.CopyN(io.Discard, r, b.Have); err != nil {
		return err
	}
	buf := make([]byte, min(chunk, b.Size-b.Have))
	for at := b.Have; ; {
		n, err := io.ReadFull(r, buf[:min(int64(len(buf)), b.Size-at)])
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", b.Digest, err)
		}
		var got registry.Progress
		err = w.ask(ctx, http.MethodPut, "blobs/"+string(b.Digest), map[string]string{"size": fmt.Sprint(b.Size), "from": fmt.Sprint(at)}, buf[:n], &got)
		if err != nil {
			return err
		}
		sent(int64(n))
		if at += int64(n); at >= b.Size || got.Have >= b.Size {
			return nil
		}
	}
}

// settle has the registry keep of this site what this release has, and nothing
// else.
func (p Plan) settle(ctx context.Context) error {
	w, err := p.warehouse(ctx)
	if err != nil {
		return err
	}
	root := p.payload.root()
	return w.root(ctx, p.site, registry.Root{Digest: root.Digest, Size: root.Size})
}
