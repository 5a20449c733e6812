// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package kubernetes holds the manifests to what NetProbe needs.
package kubernetes

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// manifests are what `kubectl apply -k` would send.
type manifests map[string]runtime.Object

var strict = json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})

// render decodes all that the kustomization gives, and takes no field that the API
// does not know.
func render(t *testing.T) manifests {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), ".")
	require.NoError(t, err)
	all := manifests{}
	for _, r := range resources.Resources() {
		text, err := r.AsYAML()
		require.NoError(t, err)
		object, kind, err := strict.Decode(text, nil, nil)
		require.NoError(t, err, string(text))
		all[kind.Kind+" "+r.GetNamespace()+"/"+r.GetName()] = object
	}
	return all
}

// the hash that kustomize puts behind a ConfigMap's name, so that pods are replaced
// where the config changes
var configMapName = regexp.MustCompile(`^ConfigMap netprobe/netprobe-[0-9a-z]{10}$`)

func (m manifests) config(t *testing.T) *corev1.ConfigMap {
	t.Helper()
	for key, o := range m {
		if configMapName.MatchString(key) {
			return o.(*corev1.ConfigMap)
		}
	}
	require.Fail(t, "no ConfigMap")
	return nil
}

func (m manifests) pod(t *testing.T) *corev1.PodSpec {
	t.Helper()
	set, ok := m["DaemonSet netprobe/netprobe"].(*appsv1.DaemonSet)
	require.True(t, ok)
	require.Len(t, set.Spec.Template.Spec.Containers, 1)
	require.Empty(t, set.Spec.Template.Spec.InitContainers)
	return &set.Spec.Template.Spec
}

func TestManifestsAreWhole(t *testing.T) {
	m := render(t)
	config := m.config(t)
	var keys []string
	for key := range m {
		if !configMapName.MatchString(key) {
			keys = append(keys, key)
		}
	}
	require.ElementsMatch(t, []string{
		"Namespace /netprobe",
		"ServiceAccount netprobe/netprobe",
		"ClusterRole /netprobe",
		"ClusterRoleBinding /netprobe",
		"DaemonSet netprobe/netprobe",
	}, keys)

	pod := m.pod(t)
	require.Equal(t, "netprobe", pod.ServiceAccountName)
	binding := m["ClusterRoleBinding /netprobe"].(*rbacv1.ClusterRoleBinding)
	require.Equal(t, rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "netprobe"}, binding.RoleRef)
	require.Equal(t, []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "netprobe", Name: "netprobe"}}, binding.Subjects)

	set := m["DaemonSet netprobe/netprobe"].(*appsv1.DaemonSet)
	require.Subset(t, set.Spec.Template.Labels, set.Spec.Selector.MatchLabels)
	require.NotEmpty(t, set.Spec.Selector.MatchLabels)

	// what the pod mounts is the ConfigMap, under its hashed name
	require.Len(t, pod.Volumes, 1)
	require.Equal(t, config.Name, pod.Volumes[0].ConfigMap.Name)
	require.Equal(t, []corev1.VolumeMount{{Name: pod.Volumes[0].Name, MountPath: "/etc/netprobe", ReadOnly: true}}, pod.Containers[0].VolumeMounts)
	require.Equal(t, []string{"--config=/etc/netprobe/netprobe.yaml"}, pod.Containers[0].Args)
	require.Contains(t, config.Data, "netprobe.yaml")
	require.Len(t, config.Data, 1)
}

// documentedIn gives the text of a README's section, whose heading is of level two.
func documentedIn(t *testing.T, file, section string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	_, after, found := strings.Cut(string(text), "\n## "+section+"\n")
	require.True(t, found, "%s has no section %s", file, section)
	section, _, _ = strings.Cut(after, "\n## ")
	return section
}

func TestPodHasNoMorePrivilegesThanDocumented(t *testing.T) {
	pod := render(t).pod(t)
	require.True(t, pod.HostNetwork)
	require.True(t, pod.HostPID)
	require.False(t, pod.HostIPC)
	require.Equal(t, corev1.DNSClusterFirstWithHostNet, pod.DNSPolicy)
	for _, v := range pod.Volumes {
		require.Nil(t, v.HostPath, "%s is the host's", v.Name)
	}

	require.Nil(t, pod.SecurityContext)
	c := pod.Containers[0].SecurityContext
	require.False(t, *c.Privileged)
	require.False(t, *c.AllowPrivilegeEscalation)
	require.True(t, *c.ReadOnlyRootFilesystem)
	require.Equal(t, int64(0), *c.RunAsUser) // Kubernetes gives others no capabilities
	require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, c.SeccompProfile.Type)

	var documented []corev1.Capability
	for _, row := range regexp.MustCompile("(?m)^\\| `CAP_([A-Z_]+)` \\|").FindAllStringSubmatch(documentedIn(t, "README.md", "Privileges"), -1) {
		documented = append(documented, corev1.Capability(row[1]))
	}
	require.Equal(t, []corev1.Capability{"ALL"}, c.Capabilities.Drop)
	require.ElementsMatch(t, []corev1.Capability{"BPF", "PERFMON", "NET_ADMIN"}, c.Capabilities.Add)
	require.ElementsMatch(t, c.Capabilities.Add, documented)
}

func TestPodIsOnEachNodeAndStays(t *testing.T) {
	m := render(t)
	pod := m.pod(t)
	require.Equal(t, []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, pod.Tolerations)
	require.Equal(t, "system-node-critical", pod.PriorityClassName)
	require.Equal(t, map[string]string{corev1.LabelOSStable: "linux"}, pod.NodeSelector)

	// Two cannot be on a node at a time: they would have the same ports.
	set := m["DaemonSet netprobe/netprobe"].(*appsv1.DaemonSet)
	require.Equal(t, appsv1.RollingUpdateDaemonSetStrategyType, set.Spec.UpdateStrategy.Type)
	require.Equal(t, intstr.FromInt32(1), *set.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable)
	require.Nil(t, set.Spec.UpdateStrategy.RollingUpdate.MaxSurge)
}

// collectorConfig is what the ConfigMap has, without the environment put in.
func collectorConfig(t *testing.T, m manifests) *confmap.Conf {
	t.Helper()
	read, err := confmap.NewRetrievedFromYAML([]byte(m.config(t).Data["netprobe.yaml"]))
	require.NoError(t, err)
	conf, err := read.AsConf()
	require.NoError(t, err)
	return conf
}

func TestPortsAreTheConfigs(t *testing.T) {
	m := render(t)
	conf := collectorConfig(t, m)
	port := func(endpoint string) int32 {
		value, ok := conf.Get(endpoint).(string)
		require.True(t, ok, endpoint)
		// of the node, in brackets because it may be an IPv6 address
		host, text, _ := strings.Cut(value, "]:")
		require.Equal(t, "[${env:K8S_NODE_IP:-localhost}", host)
		number, err := strconv.ParseInt(text, 10, 32)
		require.NoError(t, err)
		return int32(number)
	}
	readers, ok := conf.Get("service::telemetry::metrics::readers").([]any)
	require.True(t, ok)
	require.Len(t, readers, 1)
	own := confmap.NewFromStringMap(readers[0].(map[string]any))
	require.Equal(t, "[${env:K8S_NODE_IP:-localhost}]", own.Get("pull::exporter::prometheus::host"))

	c := m.pod(t).Containers[0]
	ports := map[string]int32{}
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	require.Equal(t, map[string]int32{
		"metrics":   port("exporters::prometheus::endpoint"),
		"health":    port("extensions::health_check::endpoint"),
		"telemetry": int32(own.Get("pull::exporter::prometheus::port").(int)),
	}, ports)
	for name, probe := range map[string]*corev1.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
		require.NotNil(t, probe, name)
		require.Equal(t, intstr.FromString("health"), probe.HTTPGet.Port, name)
		require.Equal(t, "/", probe.HTTPGet.Path, name)
	}
	require.Contains(t, conf.Get("service::extensions"), "health_check")
}

func environment(c corev1.Container) map[string]corev1.EnvVar {
	all := map[string]corev1.EnvVar{}
	for _, e := range c.Env {
		all[e.Name] = e
	}
	return all
}

func TestEnvironmentIsWhatTheConfigAsksFor(t *testing.T) {
	m := render(t)
	env := environment(m.pod(t).Containers[0])
	require.Equal(t, "spec.nodeName", env["K8S_NODE_NAME"].ValueFrom.FieldRef.FieldPath)
	require.Equal(t, "status.hostIP", env["K8S_NODE_IP"].ValueFrom.FieldRef.FieldPath)
	for _, asked := range regexp.MustCompile(`\$\{env:(\w+)(:-[^}]*)?}`).FindAllStringSubmatch(m.config(t).Data["netprobe.yaml"], -1) {
		if asked[2] == "" {
			require.Contains(t, env, asked[1])
		}
	}
}

// kernelMemory is more than what the maps of config/kubernetes.yaml take (107 MB on two
// CPUs, 140 MB on many, where flows::map is shared), and with them what else a container
// is charged with.
const kernelMemory = 160 << 20

func TestMemoryLimitsLeaveRoomForEachOther(t *testing.T) {
	m := render(t)
	conf := collectorConfig(t, m)
	c := m.pod(t).Containers[0]
	limiter := int64(conf.Get("processors::memory_limiter::limit_mib").(int)) << 20
	quantity := strings.TrimSuffix(environment(c)["GOMEMLIMIT"].Value, "MiB")
	mib, err := strconv.ParseInt(quantity, 10, 64)
	require.NoError(t, err)

	require.Greater(t, mib<<20, limiter, "Go would collect garbage in vain before the limiter refuses data")
	require.LessOrEqual(t, mib<<20+kernelMemory, c.Resources.Limits.Memory().Value(), "the kernel would kill it first")
	require.LessOrEqual(t, c.Resources.Requests.Memory().Value(), c.Resources.Limits.Memory().Value())
	require.True(t, c.Resources.Limits.Cpu().IsZero())
	require.Positive(t, c.Resources.Requests.Cpu().MilliValue())
}

func TestConfigIsLoadedByTheBinary(t *testing.T) {
	binary := os.Getenv("NETPROBE_BIN")
	if binary == "" {
		t.Skip("NETPROBE_BIN does not name the netprobe binary; `make test` builds it and sets it")
	}
	file := filepath.Join(t.TempDir(), "netprobe.yaml")
	require.NoError(t, os.WriteFile(file, []byte(render(t).config(t).Data["netprobe.yaml"]), 0o600))
	for _, address := range []string{"192.0.2.1", "2001:db8::1"} {
		cmd := exec.Command(binary, "validate", "--config="+file)
		cmd.Env = append(slices.Clone(os.Environ()), "K8S_NODE_NAME=node1", "K8S_NODE_IP="+address)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
	}
}
