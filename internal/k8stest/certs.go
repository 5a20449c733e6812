// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8stest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// authority signs the certificates of the API server and of users.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte // the certificate
	serial      int64
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{key: newKey(t), serial: 1}
	template := a.template("test")
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	require.NoError(t, err)
	a.certificate, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.pem = encode("CERTIFICATE", der)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func (a *authority) template(name string, groups ...string) *x509.Certificate {
	a.serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: name, Organization: groups},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

// issue gives a certificate and its key.
func (a *authority) issue(t testing.TB, template *x509.Certificate) (certificate, key []byte) {
	t.Helper()
	private := newKey(t)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, private.Public(), a.key)
	require.NoError(t, err)
	return encode("CERTIFICATE", der), encodeKey(t, private)
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func encodeKey(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	return encode("EC PRIVATE KEY", der)
}

// writeCertificates writes what the API server is started with.
func (c *Cluster) writeCertificates(t testing.TB) {
	t.Helper()
	template := c.ca.template("kube-apiserver")
	template.IPAddresses = []net.IP{net.ParseIP(address)}
	certificate, key := c.ca.issue(t, template)
	for name, content := range map[string][]byte{
		"ca.crt": c.ca.pem, "apiserver.crt": certificate, "apiserver.key": key, "accounts.key": encodeKey(t, newKey(t)),
	} {
		require.NoError(t, os.WriteFile(c.path(name), content, 0o600))
	}
}

// Kubeconfig writes a file that says how to reach the API as a user, who may be known
// to nobody: what the user may do is up to RBAC. It gives the file's name.
func (c *Cluster) Kubeconfig(t testing.TB, user string, groups ...string) string {
	t.Helper()
	certificate, key := c.ca.issue(t, c.ca.template(user, groups...))
	const only = "test"
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters[only] = &clientcmdapi.Cluster{Server: c.apiURL, CertificateAuthorityData: c.ca.pem}
	cfg.AuthInfos[only] = &clientcmdapi.AuthInfo{ClientCertificateData: certificate, ClientKeyData: key}
	cfg.Contexts[only] = &clientcmdapi.Context{Cluster: only, AuthInfo: only}
	cfg.CurrentContext = only
	file := c.path(strings.ReplaceAll(user, ":", "-") + ".kubeconfig")
	require.NoError(t, clientcmd.WriteToFile(*cfg, file))
	return file
}
