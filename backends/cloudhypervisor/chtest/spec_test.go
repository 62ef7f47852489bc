package chtest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// specVariable names the API description that Cloud Hypervisor publishes (see package api's tests).
const specVariable = "VMFS_CLOUD_HYPERVISOR_SPEC"

// outside are the exchanges of the script that cannot be by the description, on purpose: their steps
// and calls.
var outside = map[[2]string]string{
	{"no such call", "vm.nothing"}:              "it has no such path",
	{"the wrong method", "vm.info"}:             "it has no such method",
	{"the wrong method", "vm.boot"}:             "it has no such method",
	{"no body where there is one", "vm.create"}: "the body is required",
	{"no body where there is one", "vm.resize"}: "the body is required",
	{"an unknown field", "vm.create"}:           "payload is required",
	{"which makes a VM", "vm.info"}:             "payload is required",
	{"the host's CID", "vm.create"}:             "3 is the least",
}

// TestDescription holds the recording, and with it the fake, to the published description.
func TestDescription(t *testing.T) {
	file := os.Getenv(specVariable)
	if file == "" {
		t.Skipf("$%s does not name Cloud Hypervisor's API description", specVariable)
	}
	doc, err := openapi3.NewLoader().LoadFromFile(file)
	require.NoError(t, err)
	for _, s := range readRecording(t).Scenes {
		for _, e := range s.Exchanges {
			err := described(doc, e)
			if why, ok := outside[[2]string{e.Step, e.Call}]; ok {
				assert.Error(t, err, "%s: %s: %s", s.Name, e.Step, why)
				continue
			}
			assert.NoError(t, err, "%s: %s: %s", s.Name, e.Step, e.Call)
		}
	}
}

// described tells what is wrong with an exchange. Statuses that the description leaves out, as it
// does with most refusals, are not: of those nothing is known.
func described(doc *openapi3.T, e exchange) error {
	r, err := http.NewRequest(e.Method, "http://localhost/api/v1/"+e.Call, bytes.NewReader(e.Body))
	if err != nil {
		return err
	}
	if len(e.Body) > 0 {
		r.Header.Set("Content-Type", "application/json")
	}
	item := doc.Paths.Find("/" + e.Call)
	if item == nil {
		return routers.ErrPathNotFound
	}
	op := item.GetOperation(e.Method)
	if op == nil {
		return routers.ErrMethodNotAllowed
	}
	in := &openapi3filter.RequestValidationInput{
		Request: r,
		Route:   &routers.Route{Spec: doc, Server: doc.Servers[0], Path: "/" + e.Call, PathItem: item, Method: e.Method, Operation: op},
	}
	if err := openapi3filter.ValidateRequest(r.Context(), in); err != nil {
		return err
	}
	answer := []byte(e.Answer)
	if len(answer) > 0 {
		var v any
		if err := json.Unmarshal(answer, &v); err != nil {
			return err
		}
		dropNulls(v)
		if answer, err = json.Marshal(v); err != nil {
			return err
		}
	}
	return openapi3filter.ValidateResponse(r.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: e.Status,
		Header: http.Header{"Content-Type": {"application/json"}},
		Body:   io.NopCloser(bytes.NewReader(answer)),
	})
}

// dropNulls takes the fields that are null out of v: the real one has some for what is not
// there, and its description does not say so.
func dropNulls(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if e == nil {
				delete(v, k)
			}
			dropNulls(e)
		}
	case []any:
		for _, e := range v {
			dropNulls(e)
		}
	}
}
