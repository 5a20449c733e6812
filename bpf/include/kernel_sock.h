/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the programs that watch sockets use of the kernel's definitions beside
 * kernel.h: sockets, the tasks that own them, and iterators.
 */
#ifndef NETPROBE_KERNEL_SOCK_H
#define NETPROBE_KERNEL_SOCK_H

#include "kernel.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct inet_sock {
	struct sock sk;
	__be16 inet_sport;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	const void *icsk_ulp_ops;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u64 bytes_received;
	__u64 bytes_sent;
	__u64 bytes_retrans;
	__u32 segs_in;
	__u32 segs_out;
	__u32 total_retrans;
	__u32 srtt_us;
};

struct socket {
	struct sock *sk;
};

/* CONFIG_MPTCP */
struct mptcp_sock {
	struct sock *first;
};

struct super_block {
	unsigned long s_magic;
};

struct inode {
	struct super_block *i_sb;
};

struct qstr {
	const unsigned char *name;
};

struct dentry {
	struct qstr d_name;
};

struct path {
	struct dentry *dentry;
};

struct file {
	struct inode *f_inode;
	struct path f_path;
	void *private_data;
};

struct mm_struct {
	struct file *exe_file;
};

struct kernfs_node {
	struct kernfs_node *parent;
	const char *name;
	__u64 id;
};

/* since 6.15, 633488947ef6 */
struct kernfs_node___rcu {
	struct kernfs_node *__parent;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
};

struct css_set {
	struct cgroup_subsys_state *subsys[1];
	struct cgroup *dfl_cgrp;
};

struct task_struct {
	struct mm_struct *mm;
	struct task_struct *group_leader;
	unsigned int flags;
	int tgid;
	char comm[16];
	struct css_set *cgroups;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

#pragma clang attribute pop

/* The number is that of no kernel: it is resolved at load time. */
enum cgroup_subsys_id {
	memory_cgrp_id = 63,
};

/* The contexts of iterators: eight bytes each (include/linux/bpf.h, BPF_TRACE_ITER). */
struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	void *map;
	void *key;
	void *value;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u64 fd;
	struct file *file;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

/* include/net/tcp_states.h */
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_FIN_WAIT1 4
#define TCP_FIN_WAIT2 5
#define TCP_TIME_WAIT 6
#define TCP_CLOSE 7
#define TCP_CLOSE_WAIT 8
#define TCP_LAST_ACK 9
#define TCP_LISTEN 10
#define TCP_CLOSING 11
#define TCP_NEW_SYN_RECV 12

/* bits of sock_common.skc_flags, the same in all kernels (enum sock_flags,
 * include/net/sock.h): no program has it any more, and the other end sends no more
 */
#define SOCK_DEAD 0
#define SOCK_DONE 1

/* sock.sk_shutdown: both directions (include/net/sock.h) */
#define SHUTDOWN_MASK 3

/* task_struct.flags: it is the kernel's own (include/linux/sched.h) */
#define PF_KTHREAD 0x00200000

/* flags of recvmsg (include/linux/socket.h) */
#define MSG_PEEK 2
#define MSG_ERRQUEUE 0x2000

/* sock.sk_userlocks: the port was asked for (include/net/sock.h) */
#define SOCK_BINDPORT_LOCK 8

/* super_block.s_magic of sockets (include/uapi/linux/magic.h) */
#define SOCKFS_MAGIC 0x534F434B

/* include/uapi/asm-generic/errno.h */
#define EACCES 13
#define EEXIST 17
#define ENETDOWN 100
#define ENETUNREACH 101
#define ECONNRESET 104
#define ETIMEDOUT 110
#define ECONNREFUSED 111
#define EHOSTDOWN 112
#define EHOSTUNREACH 113
#define ENONET 64
#define ENOPROTOOPT 92

#endif
