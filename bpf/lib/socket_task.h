/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who a process is, and in which container it runs. */
#ifndef NETPROBE_SOCKET_TASK_H
#define NETPROBE_SOCKET_TASK_H

#include "socket.h"
#include "../include/kernel_sock.h"
#include <bpf/bpf_core_read.h>

/* The root of a hierarchy has this number (kernfs_root, fs/kernfs/dir.c). */
#define ROOT_CGROUP_ID 1

/* Tells the numbers of version 1's groups from those of version 2. */
#define CGROUP_V1 (1ULL << 63)

static __always_inline const struct kernfs_node *kernfs_parent(const struct kernfs_node *node)
{
	const struct kernfs_node___rcu *newer = (const void *)node;

	if (bpf_core_field_exists(newer->__parent))
		return BPF_CORE_READ(newer, __parent);
	return BPF_CORE_READ(node, parent);
}

/* socket_cgroup_v1 gives the task's group of the memory controller. */
static __always_inline const struct kernfs_node *socket_cgroup_v1(const struct css_set *set)
{
	const struct cgroup_subsys_state *css = NULL;
	__u64 index;

	if (!bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		return NULL;
	index = bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	if (bpf_core_read(&css, sizeof(css), (const void *)&set->subsys[0] + index * sizeof(css)))
		return NULL;
	return css ? BPF_CORE_READ(css, cgroup, kn) : NULL;
}

/* socket_cgroup_id gives the number of the task's group in the unified hierarchy;
 * where that is the root, and the memory controller is in one of version 1, of the
 * group there, with CGROUP_V1 set. The group's name comes into socket_cgroups.
 */
static __always_inline __u64 socket_cgroup_id(const struct task_struct *task)
{
	const struct css_set *set = BPF_CORE_READ(task, cgroups);
	const struct kernfs_node *node = BPF_CORE_READ(set, dfl_cgrp, kn);
	struct socket_cgroup *names;
	__u64 id = BPF_CORE_READ(node, id);
	const char *name;

	if (id == ROOT_CGROUP_ID) {
		const struct kernfs_node *v1 = socket_cgroup_v1(set);

		if (!v1 || v1 == node || BPF_CORE_READ(v1, id) == ROOT_CGROUP_ID)
			return id;
		node = v1;
		id = BPF_CORE_READ(node, id) | CGROUP_V1;
	}
	if (bpf_map_lookup_elem(&socket_cgroups, &id))
		return id;
	bpf_map_update_elem(&socket_cgroups, &id, &socket_no_cgroup, BPF_NOEXIST);
	names = bpf_map_lookup_elem(&socket_cgroups, &id);
	if (!names)
		return id;
	name = BPF_CORE_READ(node, name);
	bpf_probe_read_kernel_str(names->name, sizeof(names->name), name);
	name = BPF_CORE_READ(kernfs_parent(node), name);
	bpf_probe_read_kernel_str(names->parent, sizeof(names->parent), name);
	return id;
}

/* socket_set_process notes a task as the one that uses a socket. The kernel's own
 * threads are no process: some of them close what others have left. A process
 * that is exiting has no executable any more, but has it from before if it was noted.
 */
static __always_inline void socket_set_process(struct socket_process *process,
					       const struct task_struct *task)
{
	const struct mm_struct *mm = BPF_CORE_READ(task, mm);
	__u32 pid = BPF_CORE_READ(task, tgid);
	const unsigned char *name = NULL;

	if (BPF_CORE_READ(task, flags) & PF_KTHREAD)
		return;
	if (mm)
		name = BPF_CORE_READ(mm, exe_file, f_path.dentry, d_name.name);
	if (name)
		bpf_probe_read_kernel_str(process->name, sizeof(process->name), name);
	else if (process->pid != pid)
		BPF_CORE_READ_STR_INTO(&process->name, task, group_leader, comm);
	process->pid = pid;
	process->cgroup = socket_cgroup_id(task);
}

static __always_inline const struct task_struct *socket_current(void)
{
	return (const void *)bpf_get_current_task();
}

#endif
